"""Encode one video once more so that it decodes fast.

Through PyAV, not the `ffmpeg` program: its wheels bring FFmpeg with x264, so nothing else has to be installed, and
frames are taken and counted as the readers take them.
"""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ..._optional import require
from ..readers import VideoError, locate, open_video
from ..sources.annotations import VideoEntry

_CRF = "20"  # a little finer than x264's default of 23, because these pixels were compressed before
_LIMITED = 1  # AVCOL_RANGE_MPEG: luma from 16 to 235
_ANY_TYPE = 0  # AV_PICTURE_TYPE_NONE: the encoder chooses, whatever the source had there
_TURNS = {90: ("cclock",), -90: ("clock",), 180: ("clock", "clock"), -180: ("clock", "clock")}


def encode_video(entry: VideoEntry, target: Path, short_side: int, gop: int) -> None:
    """Write `entry` as H.264 in MP4 to `target`, which is complete or absent.

    One frame for each that is shown, with its time; rotation applied; no sound; sides even, the shorter one at most
    `short_side`; a key frame every `gop` frames; x264's `fastdecode` tuning (no loop filter, no CABAC).
    Errors: `VideoError` if it cannot be read to its end, or if the result does not have its number of frames.
    """
    av = require("av")
    name, url = locate(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    try:
        with av.open(url) as source, av.open(str(unfinished), "w", format="mp4") as container:
            count = _encode(av, source, container, short_side, gop)
        if count == 0:
            raise VideoError(name, "has no frames")
        with closing(open_video(unfinished)) as written:
            if written.num_frames != count:
                raise VideoError(name, f"{count} frames became {written.num_frames}")
        os.replace(unfinished, target)
    except av.FFmpegError as error:
        raise VideoError(name, f"cannot be encoded again ({error.strerror})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(av: Any, source: Any, container: Any, short_side: int, gop: int) -> int:
    """Encode all frames; returns their number."""
    stream = source.streams.best("video")
    if stream is None:
        raise VideoError(source.name, "has no video stream")
    stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    reformatter = av.video.reformatter.VideoReformatter()
    output: Any = None
    turned: Any = None
    count, start, last = 0, 0, -1
    for shown in source.decode(stream):
        turned = turned or _turn(av, stream, shown.rotation)
        frame = turned(shown)
        if output is None:
            output, start = _add_output(container, stream, frame, short_side, gop), frame.pts or 0
        small = reformatter.reformat(
            frame, output.width, output.height, "yuv420p", interpolation="BICUBIC", dst_color_range=_LIMITED, threads=1
        )
        # AVI's times are guesses that need not rise; what counts is the order.
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


def _turn(av: Any, stream: Any, rotation: int) -> Callable[[Any], Any]:
    """What turns frames as a player does for `rotation` degrees."""
    if rotation not in _TURNS:
        return lambda frame: frame
    graph = av.filter.Graph()
    graph.threads = 1  # it lives on until garbage is collected, maybe in a process forked since, where threads do not
    turns = [graph.add("transpose", direction) for direction in _TURNS[rotation]]
    graph.link_nodes(graph.add_buffer(template=stream), *turns, graph.add("buffersink")).configure()

    def turned(frame: Any) -> Any:
        graph.vpush(frame)
        return graph.vpull()

    return turned
