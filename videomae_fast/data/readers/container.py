"""Opening a container with PyAV, which is done in one way wherever a file comes from.

A file says by its first bytes, not by its name, which demuxer FFmpeg gives it to. Some demuxers obey the file: a
playlist (concat, HLS, DASH, SDP) makes FFmpeg open other files and connections. So the demuxer must be one of
CONTAINERS, each of which reads the one file that it is given.
"""

import errno
from typing import Any

from .base import TIME_LIMIT, VideoError, video_errors

# FFmpeg's names of demuxers. "mov" is MP4, M4V, MOV and 3GP; "matroska" is WebM too; "mpeg" is VOB too.
CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg"),  # of VIDEO_SUFFIXES
    *("mxf", "gxf", "nut", "dv", "rm", "wtv", "dhav", "cine", "ivf", "yuv4mpegpipe", "gif"),
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v", "mjpeg", "mpegvideo", "vc1", "dirac"),  # no container
)
_OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file,subfile"}


def open_container(av: Any, name: str, url: str, stored_times: bool = False) -> tuple[Any, Any]:
    """Open a file for decoding its best video stream with one thread.

    Metadata that is no UTF-8 is replaced. Opening, and each later reading of a packet, ends after TIME_LIMIT.

    Args:
        av: the module `av`.
        name: the video's name in messages.
        url: what FFmpeg opens, as `locate` returns it.
        stored_times: packets have the times that the container stores. Otherwise FFmpeg guesses the missing ones, and
            guesses wrongly where frames are reordered.

    Returns:
        The open container and the stream. Close the container after use.

    Raises:
        VideoError: the file cannot be opened, is none of CONTAINERS, or has no video stream (a cover picture is none)
            or none that can be decoded.
    """
    with video_errors(name, "av cannot open it"):
        container = _open(av, name, url, stored_times)
        try:
            return container, _video_stream(av, name, container)
        except BaseException:
            container.close()
            raise


def open_sound(av: Any, name: str, url: str) -> tuple[Any, Any]:
    """Open a file for decoding its best audio stream with one thread; the rest is as in `open_container`.

    Args:
        av: the module `av`.
        name: the video's name in messages.
        url: what FFmpeg opens, as `locate` returns it.

    Returns:
        The open container, and the stream, or None if the file has no sound. Close the container after use.

    Raises:
        VideoError: the file cannot be opened, is none of CONTAINERS, or its sound has no decoder.
    """
    with video_errors(name, "av cannot open it"):
        container = _open(av, name, url, stored_times=False)
        try:
            stream = container.streams.best("audio")
            return container, None if stream is None else _decoding(name, stream, "audio")
        except BaseException:
            container.close()
            raise


def _open(av: Any, name: str, url: str, stored_times: bool) -> Any:
    options = {**_OPTIONS, "fflags": "nofillin"} if stored_times else _OPTIONS
    try:
        return av.open(url, container_options=options, metadata_errors="replace", timeout=TIME_LIMIT)
    except av.FFmpegError as error:
        if error.errno != errno.EINVAL:  # FFmpeg's answer to another demuxer, and to some damaged files
            raise
        allowed = ", ".join(CONTAINERS)
        raise VideoError(name, f"is damaged or not a video container that is allowed (allowed: {allowed})") from error


def _video_stream(av: Any, name: str, container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None or av.stream.Disposition.attached_pic in stream.disposition:
        raise VideoError(name, "has no video stream")
    return _decoding(name, stream, "video")


def _decoding(name: str, stream: Any, kind: str) -> Any:
    if stream.codec_context is None:  # PyAV does not tell the codec's name then
        raise VideoError(name, f"has no decoder for the codec of its {kind} stream")
    stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
    return stream
