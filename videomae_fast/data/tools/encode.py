"""Encode one video again so that it decodes fast.

It uses PyAV, not the `ffmpeg` program: PyAV's wheels bring FFmpeg with x264, so nothing else has to be installed, and
frames are decoded and counted as by the readers.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from ..._files import NAME_ERRORS, atomic_write
from ..._optional import require
from ..readers import VideoError, locate, open_video
from ..readers.base import check_size, video_errors
from ..readers.container import open_container
from ..sources.annotations import TarMember, VideoFile
from .check import check_video
from .process_pool import restart_time_limit

_CRF = "20"  # a little finer than x264's default of 23, because these pixels were compressed before
_LIMITED = 1  # AVCOL_RANGE_MPEG: luma from 16 to 235
_ANY_TYPE = 0  # AV_PICTURE_TYPE_NONE: the encoder chooses the frame type, not the source
_TRANSPOSES = {90: ("cclock",), -90: ("clock",), 180: ("clock", "clock"), -180: ("clock", "clock")}  # by rotation


def encode_video(entry: VideoFile | TarMember, target: Path, short_side: int, gop: int) -> None:
    """Write a video as H.264 in MP4.

    The new video has one frame for each frame that a player shows, with its time; rotation is applied; there is no
    sound. x264's tuning is `fastdecode` (no loop filter, no CABAC). A video that `check_video` finds bad is not
    encoded, nor one with any damaged frame: the new video would hide the damage.

    Args:
        entry: the video.
        target: the file to write; it is complete or absent at every moment.
        short_side: pixels; larger videos are scaled down so that their shorter side is about this. Sides are even.
        gop: frames from one key frame to the next, at most.

    Raises:
        ImportError: PyAV is missing.
        VideoError: the video cannot be read to its end, the result has another number of frames, or the file system
            cannot have a file called `target`.
        OSError: `target` cannot be written, as on a full disk: no fault of the video.
    """
    checked = check_video(entry)
    if checked.reason:
        raise VideoError(entry.name, checked.reason)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            _write(entry, partial, checked.frames, short_side, gop)
            try:
                with closing(open_video(partial)) as written:
                    frames = written.num_frames
            except VideoError as error:
                raise VideoError(entry.name, f"the new video is not readable: {error.reason}") from error
            if frames != checked.frames:
                raise VideoError(entry.name, f"{checked.frames} frames became {frames}")
    except OSError as error:
        if error.errno in NAME_ERRORS:
            raise VideoError(entry.name, f"{target} cannot be the name of the new video ({error.strerror})") from error
        raise


class _Target:
    """The file that FFmpeg writes to. PyAV replaces errors of the disk by its own, so the first one is kept here."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.name = file, file.name
        self.error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def _write(entry: VideoFile | TarMember, path: Path, num_frames: int, short_side: int, gop: int) -> None:
    av = require("av")
    name, url = locate(entry)
    with open(path, "wb") as file:
        target = _Target(file)
        try:
            with video_errors(name, "cannot be encoded again"):
                source, stream = open_container(av, name, url)
                with source, av.open(target, "w", format="mp4") as container:
                    count = _encode(av, name, source, stream, container, num_frames, short_side, gop)
        finally:
            if target.error is not None:
                raise target.error
    if count != num_frames:
        raise VideoError(name, f"decoding it gives {count} frames instead of {num_frames}")


def _encode(
    av: Any, name: str, source: Any, stream: Any, container: Any, num_frames: int, short_side: int, gop: int
) -> int:
    """Encode all frames; returns their number."""
    reformatter = av.video.reformatter.VideoReformatter()
    output: Any = None
    rotate: Any = None
    size = None
    count, start, last = 0, 0, -1
    for shown in source.decode(stream):
        restart_time_limit()
        if shown.is_corrupt:
            raise VideoError(name, f"frame {count} of {num_frames} is damaged")
        size = size or (shown.height, shown.width)
        check_size(name, (shown.height, shown.width), size)
        rotate = rotate or _rotation(av, stream, shown.rotation)
        frame = rotate(shown)
        if output is None:
            output, start = _add_output(container, stream, frame, short_side, gop), frame.pts or 0
        small = reformatter.reformat(
            frame, output.width, output.height, "yuv420p", interpolation="BICUBIC", dst_color_range=_LIMITED, threads=1
        )
        # AVI's times are guesses and need not rise; only the order of frames counts.
        last = max(last + 1, last + 1 if frame.pts is None else frame.pts - start)
        small.pts, small.time_base, small.pict_type = last, stream.time_base, _ANY_TYPE
        container.mux(output.encode(small))
        count += 1
    if output is not None:
        container.mux(output.encode())
    return count


def _add_output(container: Any, stream: Any, frame: Any, short_side: int, gop: int) -> Any:
    scale = min(1.0, short_side / min(frame.width, frame.height))
    options = {"tune": "fastdecode", "crf": _CRF, "g": str(gop)}
    output = container.add_stream("libx264", rate=stream.average_rate or 25, options=options)
    output.width, output.height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    output.pix_fmt = "yuv420p"
    context = output.codec_context
    context.time_base, context.thread_count = stream.time_base, 1
    context.color_range, context.colorspace = _LIMITED, int(frame.colorspace)
    return output


def _rotation(av: Any, stream: Any, degrees: int) -> Callable[[Any], Any]:
    """A function that rotates frames by `degrees` as a player does."""
    if degrees not in _TRANSPOSES:
        return lambda frame: frame
    graph = av.filter.Graph()
    graph.threads = 1  # the garbage collector may free it in a forked process, where its threads do not exist
    steps = [graph.add("transpose", direction) for direction in _TRANSPOSES[degrees]]
    graph.link_nodes(graph.add_buffer(template=stream), *steps, graph.add("buffersink")).configure()

    def rotate(frame: Any) -> Any:
        graph.vpush(frame)
        return graph.vpull()

    return rotate
