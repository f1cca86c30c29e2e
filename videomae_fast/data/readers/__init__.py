"""Random access to the frames of a video, behind one small protocol.

Index n is the n-th frame that a player shows (rotation applied). A reader is opened for one sample, inside the worker
that needs it, closed, and never kept: a decoder that lives through a fork hangs.

What each reader can do, found by comparing every frame with sequential decoding (tests/data/test_readers.py):

=====================================  ==========  ===========================  ============================
                                       av          decord 0.6.0                 torchcodec 0.13, exact mode
=====================================  ==========  ===========================  ============================
H.264, VP9, MJPEG; MP4, Matroska       exact       exact                        exact
variable rate, rotation, edit lists    exact       exact                        error with some edit lists
HEVC; WMV                              exact       wrong after seeking          exact
open groups of pictures, MPEG-4 ASP    exact       wrong after seeking          error (open groups, AVI)
intra refresh instead of I-frames      exact       wrong                        wrong
VP8 with hidden frames                 exact       exact                        counts the hidden ones
AV1                                    exact       cannot                       exact
MPEG transport streams                 exact       wrong                        error
MPEG program streams, AVI + B-frames   exact*      exact*                       error
cut-off Matroska                       good part   good part                    error in some
frame that the decoder calls damaged   error       may repeat a good one        not known
scales frames while it decodes         yes         no                           no
memory gained over 10,000 clips        0 MB        1 MB; 90 KB a bad file+      8 MB
FFmpeg                                 in wheel    in wheel, of 2020+           the system's+
wheels                                 all         x86-64 only+                 Linux x86-64, arm; macOS+
=====================================  ==========  ===========================  ============================

* decodes the file from its start. + from their documentation and issue trackers, not measured here.

Processor milliseconds to open a file and decode a clip of 16 frames, 4 apart (two x86-64 cores that had other work too,
PyAV 18.1; trust the ratios, to about 15 %):

==================================  =====  ======================  ======  ==========
                                    av     av, without skipping    decord  torchcodec
==================================  =====  ======================  ======  ==========
H.264 340x256, x264 defaults        24     30                      35      32
the same with `fastdecode`, GOP 32  11     13                      19      14
H.264 640x480, 20 files             35     45                      55      47
H.264 360p and 432p, 40-140 s       37     48                      66      46
HEVC 340x256                        91     91                      97      95
VP8 480x360 and 960x540             81     80                      108     79
MJPEG 340x256                       5      5                       36      5
MPEG-4 ASP AVI 340x256              15     15                      19      16
the same with B-frames              33*    33*                     33*     42
==================================  =====  ======================  ======  ==========

`av` is the default because it alone was right on every file, and within those 15 % nothing was faster anywhere.
decord is what published results were made with.
"""

import os
from collections.abc import Callable

from ..sources.annotations import VideoEntry
from .av import AvVideo
from .base import VideoError, VideoReader
from .decord import DecordVideo
from .images import IMAGE_TEMPLATE, ImageFolder
from .torchcodec import TorchcodecVideo

# Named after their packages; each is called with the name for messages and the URL that FFmpeg opens.
READERS: dict[str, Callable[..., VideoReader]] = {
    "av": AvVideo,
    "decord": DecordVideo,
    "torchcodec": TorchcodecVideo,
}
DEFAULT_READER = "av"
_REDUCING = ("av",)


def check_reader(reader: str, short_side: int = 0) -> None:
    """Raise ValueError for an unknown reader, or for a `short_side` that is negative or that the reader cannot do."""
    if reader not in READERS:
        raise ValueError(f"reader must be one of {sorted(READERS)}, got {reader!r}")
    if short_side < 0:
        raise ValueError(f"short_side must not be negative, got {short_side}")
    if short_side and reader not in _REDUCING:
        raise ValueError(f"short_side needs reader {' or '.join(_REDUCING)}, got {reader!r}")


def open_video(path: str | os.PathLike, reader: str = DEFAULT_READER, short_side: int = 0) -> VideoReader:
    """Open a video file with the reader of that name.

    short_side: > 0: frames whose shorter side is larger are scaled down to it while they are converted to RGB. That
        saves work on large videos and changes pixels: crops are then cut from scaled frames.
    Errors: ValueError as `check_reader`, ImportError naming the extra if the reader's package is missing,
    `VideoError` for a file that is missing, empty, cannot be decoded or has no frames.
    """
    check_reader(reader, short_side)
    return _open(*locate(VideoEntry(os.fspath(path))), reader, short_side)


def open_entry(
    entry: VideoEntry, reader: str = DEFAULT_READER, short_side: int = 0, template: str = IMAGE_TEMPLATE
) -> VideoReader:
    """Open what an entry of a list names: a video file, a member of a tar file, or a raw-frame folder.

    `template` names the images of raw-frame folders; `short_side` leaves those as they are.
    """
    check_reader(reader, short_side)
    if entry.total >= 0:
        return ImageFolder(entry.path, entry.start, entry.total, template)
    return _open(*locate(entry), reader, short_side)


def locate(entry: VideoEntry) -> tuple[str, str]:
    """The name of a video for messages, and the URL that FFmpeg opens; `VideoError` if its file is not there."""
    path, url = entry.path, os.path.abspath(entry.path)  # FFmpeg would take 'a:b.mp4' for a protocol
    name = f"{path}/{entry.member}" if entry.member else path
    if not os.path.isfile(path):
        raise VideoError(name, "is a folder, not a file" if os.path.isdir(path) else "no such file")
    size, end = os.path.getsize(path), entry.start + entry.size
    if size == 0:
        raise VideoError(name, "the file is empty (0 bytes)")
    if not entry.member:
        return name, url
    if size < end or entry.size == 0:
        raise VideoError(name, "is empty" if entry.size == 0 else f"the tar file has {size} bytes, it ends at {end}")
    return name, f"subfile,,start,{entry.start},end,{end},,:{url}"  # read where it lies: nothing is unpacked


def _open(name: str, url: str, reader: str, short_side: int) -> VideoReader:
    return READERS[reader](name, url, short_side) if short_side else READERS[reader](name, url)


__all__ = [
    "DEFAULT_READER",
    "IMAGE_TEMPLATE",
    "READERS",
    "AvVideo",
    "DecordVideo",
    "ImageFolder",
    "TorchcodecVideo",
    "VideoError",
    "VideoReader",
    "check_reader",
    "locate",
    "open_entry",
    "open_video",
]
