"""How many samples the tables of an MP4 file claim, counted before FFmpeg makes an index of them.

FFmpeg allocates 24 bytes for each sample. A table of samples of one size claims up to 2³² in 20 bytes, so that a file
of 1 KB takes gigabytes while it is opened. A whole file has a byte for each sample: its size bounds what it may claim.
"""

from collections.abc import Iterator
from typing import BinaryIO

from .base import VideoError

_ALWAYS_ALLOWED = 1 << 20  # samples; FFmpeg's index of them takes 25 MB
_TABLE = 12  # bytes of a table that are read, after the box's header
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # place of the number of samples in these bytes
_PARENTS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"))
_FIRST = frozenset((b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"sidx", b"uuid"))


def check_sample_counts(path: str, name: str, start: int, size: int) -> None:
    """Refuse an MP4 file whose tables claim more samples than it has bytes. Other files pass.

    Args:
        path: a regular file.
        name: the video's name in the error.
        start: the video's first byte in the file.
        size: bytes of the video.

    Raises:
        VideoError: the tables claim more samples than the video can hold.

    References:
        ISO/IEC 14496-12, 8.7.3 (stsz, stz2) and 8.8.8 (trun).
    """
    with open(path, "rb") as file:
        file.seek(start)
        if file.read(8)[4:] not in _FIRST:
            return
        claimed = 0
        for kind, table in _tables(file, start, start + size):
            place = _COUNT_AT[kind]
            claimed += int.from_bytes(table[place : place + 4], "big")
            if claimed > max(size, _ALWAYS_ALLOWED):
                raise VideoError(name, f"its tables claim {claimed} samples or more, and it has {size} bytes")


def _tables(file: BinaryIO, position: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the first bytes of each table of samples, in the order of the file."""
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, kind, length = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:  # the size is in 64 bits
            size, length = int.from_bytes(header[8:16], "big"), 16
        if size == 0:  # the box goes on to the end
            size = end - position
        if size < length:
            return  # damaged: FFmpeg stops here, too
        if kind in _COUNT_AT:
            file.seek(position + length)
            yield kind, file.read(_TABLE)
        position += length if kind in _PARENTS else size  # the boxes in a parent follow its header
