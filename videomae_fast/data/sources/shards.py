"""Videos inside tar files in WebDataset's layout: their positions, so that each one can be read in place.

Python's `tarfile` lists the members; FFmpeg then reads a video at its position in the tar file. The `webdataset`
package streams a shard from its beginning: sampling by number, exact resume and a split over any number of ranks would
each read up to the sample. Shards that it (or `tar`) wrote can be read here. Of a sample, only the videos are read, not
captions, labels or other files.
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
    """Position of a video in a tar file: its name there, its first byte and its bytes."""

    member: str
    start: int
    size: int


def members(path: Path) -> list[Member]:
    """List the videos in a tar file; only headers are read.

    Args:
        path: an uncompressed tar file.

    Returns:
        The positions of the videos, in the order of the tar file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no tar file, is compressed, ends early or has no videos.
    """
    try:
        with tarfile.open(path, "r:") as shard:  # a compressed tar file has no positions to read at
            found = [
                Member(info.name, info.offset_data, info.size)
                for info in shard
                if info.isreg() and os.path.splitext(info.name)[1].lower() in VIDEO_SUFFIXES
            ]
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole, uncompressed tar file ({error})") from error
    if not found:
        raise ValueError(f"{path}: no videos among the files of this tar file (looked for {' '.join(VIDEO_SUFFIXES)})")
    return found
