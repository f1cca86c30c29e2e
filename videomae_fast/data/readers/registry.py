"""Readers by name, and opening the video that an entry of a list names."""

import os
import warnings
from collections.abc import Callable
from functools import cache

from ..sources.annotations import FrameFolder, TarMember, VideoEntry, VideoFile
from ..sources.captioned import CaptionedEntry
from .av import AvVideo
from .base import VideoReader
from .decord import DecordVideo
from .frame_stack import MAX_DECODED_BYTES
from .images import IMAGE_TEMPLATE, ImageFile, ImageFolder
from .local_file import check_no_playlist, check_size
from .mp4 import check_sample_counts
from .torchcodec import TorchcodecVideo

# By package name. A reader is called with the video's name in messages and the URL that FFmpeg opens.
READERS: dict[str, Callable[..., VideoReader]] = {
    "av": AvVideo,
    "decord": DecordVideo,
    "torchcodec": TorchcodecVideo,
}
# docs/readers.md: the only reader that is right on every kind of file tried; none is faster by more than 15 %.
DEFAULT_READER = "av"
_REDUCING = ("av",)  # readers that can scale frames while they decode
_LIMITED = ("av", "torchcodec")  # readers that know the size of a frame before they decode a clip
_RESTRICTED = ("av",)  # readers that open only the containers of `container.CONTAINERS`, and no other file


def check_reader(reader: str, short_side: int = 0, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
    """Check that a reader exists and can do what is asked.

    Warns once in a process of a reader that is not safe with videos from strangers.

    Args:
        reader: a key of READERS.
        short_side: pixels, as in `open_video`.
        max_decoded_bytes: as in `open_video`.

    Raises:
        ValueError: the reader is unknown, `short_side` is negative, the reader cannot scale frames, or
            `max_decoded_bytes` is not positive or the reader has no such limit.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {sorted(READERS)}, got {reader!r}")
    if short_side < 0:
        raise ValueError(f"short_side must not be negative, got {short_side}")
    if max_decoded_bytes < 1:
        raise ValueError(f"max_decoded_bytes must be at least 1, got {max_decoded_bytes}")
    if short_side and reader not in _REDUCING:
        raise ValueError(f"short_side needs reader {' or '.join(_REDUCING)}, got {reader!r}")
    if max_decoded_bytes != MAX_DECODED_BYTES and reader not in _LIMITED:
        raise ValueError(f"max_decoded_bytes needs reader {' or '.join(_LIMITED)}, got {reader!r}")
    if reader not in _RESTRICTED:
        _warn_unrestricted(reader)


def open_video(
    path: str | os.PathLike,
    reader: str = DEFAULT_READER,
    short_side: int = 0,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> VideoReader:
    """Open a video file for random access to its frames.

    Args:
        path: a video file.
        reader: a key of READERS: "av", "decord" or "torchcodec".
        short_side: pixels. If positive, a frame whose shorter side is larger is scaled down to it during the
            conversion to RGB. This saves work on large videos. It changes pixels, because crops are then cut from
            scaled frames. 0 keeps the size. Only reader "av" can scale.
        max_decoded_bytes: the most bytes that the frames of one call may take as RGB, scaled, together with one frame
            of the video's own size. More is a VideoError before the frames are decoded. Reader "decord" has no limit:
            it tells the size of a frame only after decoding.

    Returns:
        The open reader. It belongs to this process: open one for each sample, inside the worker that needs it, and
        close it. A decoder that is kept over a fork hangs.

    Raises:
        ValueError: `reader`, `short_side` or `max_decoded_bytes` is not possible.
        ImportError: the reader's package is missing; the message names the extra that installs it.
        VideoError: the file is missing, is empty, cannot be decoded or has no frames.
    """
    check_reader(reader, short_side, max_decoded_bytes)
    return _open(*locate(VideoFile(os.fspath(path))), reader, short_side, max_decoded_bytes)


def open_entry(
    entry: VideoEntry,
    reader: str = DEFAULT_READER,
    short_side: int = 0,
    template: str = IMAGE_TEMPLATE,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> VideoReader:
    """Open the video that an entry of a list names: a video file, a member of a tar file, or a folder of frames.

    Args:
        entry: an element of `Annotations`.
        reader: as in `open_video`; a folder of frames is always read with Pillow.
        short_side: as in `open_video`; images of a folder keep their size.
        template: names of the images in a folder of frames, with one place for the frame's number.
        max_decoded_bytes: as in `open_video`; it holds for a folder of frames too.

    Returns:
        The open reader, as `open_video` returns it.

    Raises:
        ValueError: as `open_video`.
        ImportError: as `open_video`.
        VideoError: as `open_video`; also if the folder of frames is missing, or a tar file is shorter than it was.
    """
    check_reader(reader, short_side, max_decoded_bytes)
    if isinstance(entry, FrameFolder):
        return ImageFolder(entry.path, entry.start, entry.num_frames, template, max_decoded_bytes)
    return _open(*locate(entry), reader, short_side, max_decoded_bytes)


def open_captioned(
    entry: CaptionedEntry,
    reader: str = DEFAULT_READER,
    short_side: int = 0,
    template: str = IMAGE_TEMPLATE,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> VideoReader:
    """Open the video or the image of a captioned entry.

    Args:
        entry: an element of `CaptionedVideos`.
        reader: as in `open_entry`; an image is always read with Pillow, and is a video of one frame.
        short_side: as in `open_entry`; an image keeps its size.
        template: as in `open_entry`.
        max_decoded_bytes: as in `open_entry`; it holds for an image too.

    Returns:
        The open reader, of the whole video.

    Raises:
        ValueError: as `open_entry`.
        ImportError: as `open_entry`.
        VideoError: as `open_entry`; an image is opened when its frame is read.
    """
    if entry.is_image and not isinstance(entry.video, FrameFolder):
        check_reader(reader, short_side, max_decoded_bytes)
        return ImageFile(entry.video, max_decoded_bytes)
    return open_entry(entry.video, reader, short_side, template, max_decoded_bytes)


def locate(entry: VideoFile | TarMember) -> tuple[str, str]:
    """Find the bytes of a video.

    Args:
        entry: a video file or a member of a tar file.

    Returns:
        The name of the video in messages, and the URL that FFmpeg opens.

    Raises:
        VideoError: the file is missing, is no regular file, is empty, is a playlist or claims more samples than it can
            hold, or a tar file ends before its member does.
    """
    path, name, url = entry.path, entry.name, os.path.abspath(entry.path)  # FFmpeg takes 'a:b.mp4' for a protocol
    size = check_size(entry)
    if isinstance(entry, VideoFile):
        check_no_playlist(path, name)
        check_sample_counts(path, name, 0, size)
        return name, url
    end = entry.start + entry.size
    check_no_playlist(path, name, entry.start)
    check_sample_counts(path, name, entry.start, entry.size)
    return (
        name,
        f"subfile,,start,{entry.start},end,{end},,:{url}",
    )  # read in place: nothing is unpacked


@cache
def _warn_unrestricted(reader: str) -> None:
    warnings.warn(
        f"reader {reader!r} cannot be kept from other files that a video may name, nor stopped: use it for videos that "
        "you trust, and reader 'av' for videos from strangers (docs/readers.md)",
        stacklevel=3,
    )


def _open(name: str, url: str, reader: str, short_side: int, max_decoded_bytes: int) -> VideoReader:
    options = {"short_side": short_side} if short_side else {}
    if reader in _LIMITED:
        options["max_decoded_bytes"] = max_decoded_bytes
    return READERS[reader](name, url, **options)
