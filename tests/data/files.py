"""Files made for the tests: every frame carries its own index, so that a wrong frame cannot go unnoticed."""

import struct
from pathlib import Path

import av
import numpy as np

BITS = 8
# What is written besides 60 frames of 128 x 96 in H.264 with B-frames and a key frame every 12.
KINDS: dict[str, dict] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "h264.avi": {},
    "one.mp4": {"num_frames": 1},
    "seven.mp4": {"num_frames": 7},
    "odd.mp4": {"width": 101, "height": 75, "pix_fmt": "yuv444p"},
    "tall.mp4": {"width": 96, "height": 160},
    "vfr.mp4": {"times": [i * i // 4 + i for i in range(60)]},
    "vfr.mkv": {"times": [i * i // 4 + i for i in range(60)]},
    "slices.mp4": {"x264-params": "slices=4"},
    "pyramid.mp4": {"x264-params": "bframes=5:b-pyramid=normal"},
    "interlaced.mp4": {"x264-params": "interlaced=1"},
    "open_gop.mp4": {"x264-params": "open-gop=1"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=20"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none"},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12", "svtav1-params": "lp=1"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "no_b.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg1.mpg": {"codec": "mpeg1video", "bf": "2"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2"},
    "wmv2.wmv": {"codec": "wmv2"},
}
DERIVED = ("rotated.mp4", "edit_list.mp4", "hevc_edit_list.mp4", "cut.mkv", "tail.ts", "negative.mkv")


def stamped(index: int, height: int, width: int) -> np.ndarray:
    """A frame (H, W, 3) of eight vertical bars, the binary digits of `index`: legible after any compression."""
    frame = np.full((height, width, 3), 30, dtype=np.uint8)
    for bit in range(BITS):
        if index >> bit & 1:
            frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 220
    return frame


def stamp(frame: np.ndarray) -> int:
    """The index that a frame made by `stamped` carries."""
    columns = frame.mean(axis=(0, 2))
    middles = [(2 * bit + 1) * len(columns) // (2 * BITS) for bit in range(BITS)]
    return sum(int(columns[middle] > 125) << bit for bit, middle in enumerate(middles))


def write_video(
    path: Path,
    num_frames: int = 60,
    height: int = 96,
    width: int = 128,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    **options: str,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", **options})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.thread_count = 1
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(stamped(index, height, width), "rgb24")
            if times is not None:
                frame.pts = times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def derive(folder: Path, name: str) -> None:
    whole = lambda kind: (folder / kind).read_bytes()  # noqa: E731
    if name == "rotated.mp4":
        (folder / name).write_bytes(turned(whole("h264.mp4")))
    elif name == "edit_list.mp4":
        copy_from(folder / "h264.mp4", folder / name, 0.4)
    elif name == "hevc_edit_list.mp4":
        copy_from(folder / "hevc.mp4", folder / name, 0.4)
    elif name == "negative.mkv":
        copy_from(folder / "h264.mp4", folder / name, 0.41, avoid_negative_ts="disabled")
    elif name == "cut.mkv":
        (folder / name).write_bytes(whole("h264.mkv")[: len(whole("h264.mkv")) * 2 // 3])
    elif name == "tail.ts":  # begins in the middle of a group of pictures
        packets = len(whole("h264.ts")) // 188
        (folder / name).write_bytes(whole("h264.ts")[packets // 3 * 188 :])


def turned(mp4: bytes) -> bytes:
    """The file with its track header's display matrix turned by 90 degrees (ISO/IEC 14496-12, 8.3.2)."""
    matrix = mp4.index(b"tkhd") + 4 + 4 + 20 + 16
    assert struct.unpack_from(">i", mp4, matrix) == (1 << 16,)
    return mp4[:matrix] + struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30) + mp4[matrix + 36 :]


def copy_from(source: Path, path: Path, seconds: float, **options: str) -> Path:
    """Cut without decoding, as `ffmpeg -ss -c copy` does: the frames before `seconds` stay, behind an edit list
    in MP4, and with negative times in Matroska if `avoid_negative_ts` is "disabled"."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                shift = int(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    return path


def sequential(path: Path) -> list[np.ndarray]:
    """Every frame, by decoding the file from its beginning: what index n has to be."""
    with av.open(str(path)) as container:
        frames = container.decode(container.streams.best("video"))
        return [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]
