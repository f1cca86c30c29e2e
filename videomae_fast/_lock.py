"""One run at a time in an output folder, and one process at a time at a piece of work."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


@contextmanager
def wait_for_lock(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Run the block while no other process is in a block with the same file.

    The lock is of the kind of `lock_output`. The file stays: to remove it would let two processes in.

    Args:
        path: a file, which is made if there is none; its folder exists.
        waiting: called if another process holds the lock, before this one waits for it.

    Yields:
        Whether others are kept out: False where the system or its file system has no locks.

    Raises:
        OSError: the file cannot be made, or is a link.
    """
    with open(path, "a", opener=_open_no_link) as file:
        yield _is_locked(file, waiting)


def _is_locked(file: IO[str], waiting: Callable[[], None]) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        waiting()
    except OSError:
        return False  # a file system without locks
    fcntl.lockf(file, fcntl.LOCK_EX)
    return True


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
