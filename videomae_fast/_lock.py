"""One run at a time in an output folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def lock_output(folder: Path) -> Iterator[None]:
    """Keep other processes out of an output folder while the block runs.

    The operating system releases the lock when the process ends in any way, so the file that a killed run leaves is no
    hindrance. The lock is a record lock: processes that load data do not inherit it, and on NFS it works between
    machines where the server supports locks. Where the system has no such locks, the block runs without one.

    Args:
        folder: folder of the run.

    Raises:
        ValueError: another process holds the lock; the message says which.
        OSError: the folder cannot be written, or its lock is a link, which would lead to another file.
    """
    with open(folder / LOCK, "a+", encoding="utf-8", errors="replace", opener=_open_no_link) as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                holder = " ".join(file.read(200).split()) or "an unknown process"
                raise ValueError(
                    f"output folder {folder} is in use by another run, {holder}: wait for it, or choose another folder"
                ) from None
            except OSError:
                pass  # a file system without locks
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
