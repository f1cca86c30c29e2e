"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Where `atomic_write` and `atomic_folder` write before `path` is complete.

    Args:
        path: the file or folder to make.

    Returns:
        A hidden path in the same folder, so on the same disk.
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file so that `path` is the old file or the whole new file at every moment.

    Args:
        path: the file to make or replace; its folder exists.

    Yields:
        The path to write to inside the block. It becomes `path` if the block succeeds, and is removed if it raises.

    Raises:
        OSError: the file cannot be renamed.
    """
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder so that `path` does not exist until all its files do.

    Args:
        path: a folder that does not exist; missing folders above it are made.

    Yields:
        The empty folder to write to inside the block. It becomes `path` if the block succeeds, and is removed if it
        raises.

    Raises:
        OSError: the folder cannot be made or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        partial.mkdir()
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
