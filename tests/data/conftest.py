"""Clips made for the tests: every frame carries its own index, so that a wrong frame cannot go unnoticed."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 8


def _stamped(index: int, height: int, width: int) -> np.ndarray:
    """A frame (H, W, 3) of eight vertical bars, the binary digits of `index`: legible after any compression."""
    frame = np.full((height, width, 3), 30, dtype=np.uint8)
    for bit in range(BITS):
        if index >> bit & 1:
            frame[:, bit * width // BITS : (bit + 1) * width // BITS] = 220
    return frame


def _stamp(frame: np.ndarray) -> int:
    """The index that a frame made by `_stamped` carries."""
    columns = frame.mean(axis=(0, 2))
    middles = [(2 * bit + 1) * len(columns) // (2 * BITS) for bit in range(BITS)]
    return sum(int(columns[middle] > 125) << bit for bit, middle in enumerate(middles))


def _write_video(
    path: Path, num_frames: int = 60, height: int = 96, width: int = 128, codec: str = "libx264", **options: str
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", **options})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_stamped(index, height, width), "rgb24")))
        container.mux(stream.encode())
    return path


def _copy_from(source: Path, path: Path, seconds: float) -> Path:
    """Cut without decoding, as `ffmpeg -ss -c copy` does: the frames before `seconds` stay, behind an edit list."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                shift = int(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    return path


@pytest.fixture(scope="session")
def stamp() -> Callable[[np.ndarray], int]:
    return _stamp


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return _write_video


@pytest.fixture(scope="session")
def copy_from() -> Callable[[Path, Path, float], Path]:
    return _copy_from


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos that can be read, of several codecs, containers, lengths and shapes."""
    folder = tmp_path_factory.mktemp("clips")
    _write_video(folder / "h264.mp4")
    _write_video(folder / "h264.mkv", width=160, height=112)
    _write_video(folder / "mpeg4.avi", codec="mpeg4", bf="2")
    _write_video(folder / "mjpeg.avi", codec="mjpeg")
    (folder / "more").mkdir()
    _write_video(folder / "more" / "vp8.webm", codec="libvpx")
    _write_video(folder / "more" / "tall.mp4", height=160, width=96)
    _write_video(folder / "more" / "seven.mp4", num_frames=7)
    _write_video(folder / "more" / "one.mp4", num_frames=1)
    return folder


@pytest.fixture(scope="session")
def bad_clips(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """A folder of files named like videos that cannot be read."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (clips / "h264.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end of the file
    return folder


@pytest.fixture(scope="session")
def extra_clips() -> Path:
    """A folder of real clips named by the environment, for tests beyond those made here."""
    if not os.environ.get("VIDEOMAE_FAST_CLIPS"):
        pytest.skip("VIDEOMAE_FAST_CLIPS names no folder of clips")
    return Path(os.environ["VIDEOMAE_FAST_CLIPS"])
