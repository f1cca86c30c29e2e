"""An output folder that another process uses: the lock does not hold within one process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from videomae_fast._lock import LOCK

_HOLDER = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locked_elsewhere(folder: Path) -> Iterator[None]:
    """Another process holds the lock of the folder, as `lock_output` takes it, while the block runs."""
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", _HOLDER, str(folder / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.communicate()
