"""Fixtures of the data tests: folders of files, and what reads them back."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import open_video
from videomae_fast.data.readers import READERS


@pytest.fixture(scope="session")
def stamp() -> Callable[[np.ndarray], int]:
    return files.stamp


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return files.write_video


@pytest.fixture(scope="session")
def copy_from() -> Callable[[Path, Path, float], Path]:
    return files.copy_from


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos that can be read, of several codecs, containers, lengths and shapes."""
    folder = tmp_path_factory.mktemp("clips")
    files.write_video(folder / "h264.mp4")
    files.write_video(folder / "h264.mkv", width=160, height=112)
    files.write_video(folder / "mpeg4.avi", codec="mpeg4", bf="2")
    files.write_video(folder / "mjpeg.avi", codec="mjpeg", pix_fmt="yuvj420p")
    (folder / "more").mkdir()
    files.write_video(folder / "more" / "vp8.webm", codec="libvpx")
    files.write_video(folder / "more" / "tall.mp4", height=160, width=96)
    files.write_video(folder / "more" / "seven.mp4", num_frames=7)
    files.write_video(folder / "more" / "one.mp4", num_frames=1)
    return folder


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every one of `KINDS` and `DERIVED`."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, options in files.KINDS.items():
        files.write_video(folder / name, **options)
    for name in files.DERIVED:
        files.derive(folder, name)
    return folder


@pytest.fixture(scope="session")
def sequential() -> Callable[[Path], list[np.ndarray]]:
    return files.sequential


@pytest.fixture(params=sorted(READERS))
def reader(request: pytest.FixtureRequest, clips: Path) -> str:
    """Every reader; those that cannot be imported are skipped with the reason."""
    try:
        open_video(clips / "h264.mp4", request.param).close()
    except ImportError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="session")
def bad_clips(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """A folder of files named like videos that cannot be read."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (clips / "h264.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end of the file
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder


@pytest.fixture(scope="session")
def extra_clips() -> Path:
    """A folder of real clips named by the environment, for tests beyond those made here."""
    if not os.environ.get("VIDEOMAE_FAST_CLIPS"):
        pytest.skip("VIDEOMAE_FAST_CLIPS names no folder of clips")
    return Path(os.environ["VIDEOMAE_FAST_CLIPS"])
