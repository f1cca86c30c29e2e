"""Files and folders that are written whole or not at all, names from strangers, the cache, errors of the disk."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

# What the system says of a name that it cannot have, or that another file needs as a folder. All else is the disk's.
NAME_ERRORS = (
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENOTEMPTY, errno.ELOOP, errno.EINVAL, errno.EILSEQ),
)


def path_inside(folder: Path, *names: str) -> Path:
    r"""Decide where a file goes whose name came from a list or a tar file: always below a folder.

    What would lead out of the folder is dropped from each name: the root, the drive, and every "..". So "/a/b",
    "//a/b", "../a/b" and "a/b" are one place, and on Windows so are "C:\a\b", "C:a\b" and "\\server\share\a\b".

    Args:
        folder: the folder; it need not exist.
        *names: names to join below it, one after the other.

    Returns:
        The path, which begins with `folder`.

    Raises:
        ValueError: the names have no part that names a file, or a NUL character; or a link in the folder leads out.
    """
    parts = [part for name in names for part in _inner_parts(PurePath(name))]
    if not parts:
        raise ValueError("its name is empty")
    if any("\0" in part for part in parts):
        raise ValueError("its name has a NUL character")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is outside {folder}: a link leads there")
    return path


def _inner_parts(name: PurePath) -> list[str]:
    return [part for part in name.relative_to(name.anchor).parts if part != ".."]


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, whose files may be removed at any time.

    Args:
        name: what the folder holds.

    Returns:
        The folder below $XDG_CACHE_HOME, or below ~/.cache. It need not exist.

    Raises:
        OSError: neither is known.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "videomae_fast", name)
    except RuntimeError as error:  # of a user without a home
        raise OSError(f"{error}; XDG_CACHE_HOME names a folder for caches") from None


def writable_folder(output: str | os.PathLike[str]) -> Path:
    """Make a folder for results, and check that a file can be made in it.

    Args:
        output: the folder; this makes it if it does not exist.

    Returns:
        The folder.

    Raises:
        ValueError: it cannot be made or written.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ValueError(f"output folder {folder} cannot be written: {error}") from error
    return folder


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
        The path to write to inside the block; nothing is there. It becomes `path` if the block succeeds, and is removed
        if it raises.

    Raises:
        OSError: the file cannot be written or renamed. An error of the block that names no file, as that of a full
            disk, names `path`.
    """
    partial = partial_path(path)
    partial.unlink(missing_ok=True)  # left by a process that was killed; a link would be followed
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
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


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn every error of the disk into an OSError that names `path`.

    A full or failing disk makes safetensors raise an error of its own with the number in its text, and torch.save a
    RuntimeError without the number. Other errors pass.

    Args:
        path: the file or folder that the block writes; its folder exists.

    Raises:
        OSError: the disk is full, over its quota, read-only or broken.
    """
    try:
        yield
    except Exception as error:
        number = _disk_error(error, path.parent)
        if number is None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _disk_error(error: Exception, folder: Path) -> int | None:
    """The number of the OSError behind `error`; None if the disk is not its cause."""
    if isinstance(error, OSError):
        return error.errno
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # as Rust, and so safetensors, writes it
        return int(found[1])
    if not isinstance(error, RuntimeError):
        return None
    try:  # torch.save does not tell why it failed, but the disk does
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(1 << 16))
            os.fsync(file.fileno())
    except OSError as probed:
        return probed.errno
    return None
