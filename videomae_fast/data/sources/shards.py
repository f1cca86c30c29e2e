"""Videos inside tar files, as WebDataset lays them out: where each one lies, so that it is read by position.

Python's `tarfile` lists the members; FFmpeg then reads a video where it lies in the tar file. The `webdataset` package
itself only streams a shard from its beginning: sampling by number, exact resume and any split over ranks would each
cost reading up to the sample. Shards written by it (or by `tar`) are what is read here; of a sample's files the videos
are taken, and captions, labels and the like are left.
"""

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

SHARD_SUFFIX = ".tar"
VIDEO_SUFFIXES = (  # lower case
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)


class Member(NamedTuple):
    """A video in a tar file: the fields of `VideoEntry` after its path."""

    start: int
    total: int
    size: int
    member: str


def members(path: Path) -> list[Member]:
    """The videos in a tar file, in its order; only headers are read.

    Errors: FileNotFoundError; ValueError for a file that is no tar file, is compressed, ends early or has no videos.
    """
    try:
        with tarfile.open(path, "r:") as shard:  # uncompressed only: the others have no positions to read at
            found = [
                Member(info.offset_data, -1, info.size, info.name)
                for info in shard
                if info.isreg() and os.path.splitext(info.name)[1].lower() in VIDEO_SUFFIXES
            ]
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole, uncompressed tar file ({error})") from error
    if not found:
        raise ValueError(f"{path}: no videos among the files of this tar file (looked for {' '.join(VIDEO_SUFFIXES)})")
    return found
