"""`python -m videomae_fast` is the `videomae-fast` command, for launchers that want a module."""

import sys

from .cli import main

sys.exit(main())
