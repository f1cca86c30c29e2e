"""`videomae-fast env`: the packages and devices of this machine."""

import argparse
from typing import Any

from .._text import printable_lines


def add_env(commands: Any) -> None:
    """Add `env` to the commands."""
    env = commands.add_parser("env", help="list the installed packages, and what each device can run")
    env.set_defaults(run=_env)


def _env(args: argparse.Namespace) -> None:
    import torch

    from ..environment import describe
    from ..models.attention import activate_flash_attention

    if torch.cuda.is_available():
        activate_flash_attention("cuda")  # as training does, so that the report says what training runs
    print(printable_lines(describe()))
