"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Where `atomic_write` writes before `path` is complete.

    Args:
        path: the file to make or replace.

    Returns:
        A hidden file in the same folder, so on the same disk.
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
