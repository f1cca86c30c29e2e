"""What is looked at in a file before a decoder opens it: that it is a regular file, and no playlist."""

import os
import re
import stat

from ..sources.annotations import TarMember, VideoFile
from .base import VideoError, first_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_HEAD = 4096  # bytes that are searched for a playlist
_ID3 = re.compile(rb"ID3.{3}([\x00-\x7f]{4})", re.DOTALL)  # FFmpeg skips such a tag; its length has 7 bits a byte
# What FFmpeg's demuxers concat, hls, vobsub, dash, imf and sdp recognise: text up to the first NUL.
_PLAYLIST = re.compile(
    rb"\A(ffconcat|\s*#EXTM3U|# VobSub)|<MPD|<(\w+:)?CompositionPlaylist|^c=IN ", re.IGNORECASE | re.MULTILINE
)


def file_size(path: str, name: str) -> int:
    """The size of a regular file. The file is not opened: to open a FIFO would wait for its writer.

    Args:
        path: a file.
        name: its name in the error.

    Returns:
        Bytes.

    Raises:
        VideoError: there is no file, or it is a folder, a FIFO, a device or a socket.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(name, "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise VideoError(name, first_line(error)) from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise VideoError(name, f"is {kind}, not a regular file")
    return status.st_size


def check_size(entry: VideoFile | TarMember) -> int:
    """Check that a video or an image has bytes.

    Args:
        entry: a file, or a member of a tar file.

    Returns:
        Bytes of the file or tar file.

    Raises:
        VideoError: as `file_size`; also if the file is empty, or a tar file ends before its member does.
    """
    size = file_size(entry.path, entry.name)
    if isinstance(entry, VideoFile):
        if size == 0:
            raise VideoError(entry.name, "the file is empty (0 bytes)")
        return size
    end = entry.start + entry.size
    if size < end or entry.size == 0:
        reason = "is empty" if entry.size == 0 else f"the tar file has {size} bytes, it ends at {end}"
        raise VideoError(entry.name, reason)
    return size


def check_no_playlist(path: str, name: str, start: int = 0) -> None:
    """Refuse a text that makes FFmpeg open other files, whatever the file is called.

    A reader that can choose FFmpeg's demuxers (av) does not depend on this; decord and torchcodec cannot choose.

    Args:
        path: a regular file.
        name: the video's name in the error.
        start: the video's first byte in the file.

    Raises:
        VideoError: the video is a playlist, or the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            head = file.read(_HEAD)
            while tag := _ID3.match(head):
                start += 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(tag[1])))
                file.seek(start)
                head = file.read(_HEAD)
    except OSError as error:
        raise VideoError(name, first_line(error)) from error
    if _PLAYLIST.search(head.partition(b"\0")[0]):
        raise VideoError(name, "is a playlist, which names other files, not a video")
