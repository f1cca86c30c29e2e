"""Videos inside tar files in WebDataset's layout: their positions, so that each one can be read in place.

Python's `tarfile` lists the members; FFmpeg then reads a video at its position in the tar file. The `webdataset`
package streams a shard from its beginning: sampling by number, exact resume and a split over any number of ranks would
each read up to the sample. Shards that it (or `tar`) wrote can be read here. Of a sample, only the videos are read, and
captions where they are asked for (captioned_shards.py); not labels or other files.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from ..._text import printable

SHARD_SUFFIX = ".tar"
VIDEO_SUFFIXES = (  # lower case
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")  # of captioned images; lower case
_MAX_HEADER = 1 << 20  # bytes of one header; names and times of files need some hundreds


class Member(NamedTuple):
    """Position of a file in a tar file: its name there, its first byte and its bytes."""

    member: str
    start: int
    size: int


def members(path: Path, suffixes: tuple[str, ...] = VIDEO_SUFFIXES) -> list[Member]:
    """List the videos in a tar file, or its files of other kinds; only headers are read.

    Links, folders and devices are no videos, whatever they are called.

    Args:
        path: an uncompressed tar file.
        suffixes: of the names that are listed, in lower case; those of videos are among them.

    Returns:
        The positions of the files, in the order of the tar file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no regular file, no tar file, is compressed, ends early, has a damaged header or none of
            the files; or one of them is stored as a sparse file.
    """
    if path.exists() and not path.is_file():  # opening a named pipe would wait for its writer
        raise ValueError(f"{printable(path)}: not a regular file, so no tar file")
    with open(path, "rb") as file:
        try:
            found = list(_members(file, suffixes))
        except OSError:
            raise
        except Exception as error:  # tarfile lets several kinds pass: OverflowError, IndexError, RecursionError, ...
            reason = printable(error) or type(error).__name__
            raise ValueError(f"{printable(path)}: not a whole, uncompressed tar file ({reason})") from error
    if not found:
        looked = " ".join(suffixes)
        raise ValueError(f"{printable(path)}: no videos among the files of this tar file (looked for {looked})")
    return found


def _members(file: BinaryIO, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """The files with one of the suffixes; ValueError and any error of `tarfile` for what is no whole tar file."""
    end = os.fstat(file.fileno()).st_size
    with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as shard:  # "r:": positions need no unpacking
        while (info := shard.next()) is not None:
            shard.members.clear()  # type: ignore[attr-defined]  # or it keeps all
            is_wanted = info.isreg() and os.path.splitext(info.name)[1].lower() in suffixes
            if is_wanted and info.issparse():
                raise ValueError(f"{info.name} is stored as a sparse file, whose bytes are not in one piece")
            size = info.size if is_wanted else shard.offset - info.offset_data
            if not 0 <= size <= end - info.offset_data or not info.offset_data <= shard.offset:
                raise ValueError(f"{info.name} is said to have {size} bytes from byte {info.offset_data} of {end} on")
            if is_wanted:
                yield Member(info.name, info.offset_data, size)
        file.seek(shard.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes it for the end
            raise ValueError(f"the header at byte {shard.offset} is damaged")


class _Headers:
    """A file from which `tarfile` reads headers, none of which may be large: it would be read into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.name = file, file.name
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Read `size` bytes, or to the end of the file."""
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes at byte {self._file.tell()}")
        return self._file.read(size)
