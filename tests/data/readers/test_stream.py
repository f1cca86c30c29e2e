"""Frames one after the other: the frames of random access, each decoded once, whatever the container stores."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, open_video
from videomae_fast.data.readers import READERS, av
from videomae_fast.data.readers.images import ImageFolder

VIDEOS: dict[str, dict[str, Any]] = {
    "a.mp4": {"x264-params": "bframes=5:b-pyramid=normal"},
    "b.mkv": {"codec": "libx265", "x265-params": "log-level=none"},
    "c.avi": {"codec": "mpeg4", "bf": "2"},  # no times to sort by: decoded from the start
    "d.mpg": {"codec": "mpeg1video", "bf": "2"},
    "e.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "f.ts": {},
}


@pytest.fixture(scope="module", params=VIDEOS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stream") / request.param
    files.write_video(made, 60, **VIDEOS[request.param])
    return made


class Counter:
    """Counts the frames that a decoder gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames, decoded = 0, av.AvVideo._decoded

        def counted(video: av.AvVideo, packets: Iterable[Any]) -> Iterator[Any]:
            for frame in decoded(video, packets):
                self.frames += 1
                yield frame

        monkeypatch.setattr(av.AvVideo, "_decoded", counted)


@pytest.mark.parametrize("indices", [range(60), range(3, 60, 4), [59], [0, 1, 40]], ids=str)
def test_frames_are_those_of_random_access(path: Path, indices: Any) -> None:
    wanted = np.array(indices)
    with closing(open_video(path)) as video:
        expected = video.frames(wanted)
        for _ in range(2):
            streamed = list(video.stream(wanted))
            np.testing.assert_array_equal(streamed, expected)
        np.testing.assert_array_equal(video.frames(wanted), expected)


def test_each_frame_is_decoded_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_video(path)) as video:
        counter = Counter(monkeypatch)
        assert sum(1 for _ in video.stream(np.arange(60))) == 60
        assert counter.frames == 60


@pytest.mark.parametrize("reader", [name for name in READERS if name != "av"])
def test_every_reader_streams(reader: str, tmp_path: Path) -> None:
    try:
        files.write_video(tmp_path / "a.mp4", 20)
        video = open_video(tmp_path / "a.mp4", reader)
    except ImportError as error:
        pytest.skip(str(error))
    with closing(video):
        np.testing.assert_array_equal(list(video.stream(np.arange(1, 20, 3))), video.frames(np.arange(1, 20, 3)))


def test_a_folder_of_frames_streams(tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    for number in range(1, 5):
        images.new("RGB", (4, 3), (number, 0, 0)).save(tmp_path / f"img_{number:05}.jpg", quality=100)
    video = ImageFolder(str(tmp_path), 1, 4)
    np.testing.assert_array_equal(list(video.stream(np.array([0, 2]))), video.frames(np.array([0, 2])))


@pytest.mark.parametrize("indices", [[2, 1], [3, 3], [], [60], [-1]], ids=str)
def test_indices_that_cannot_come_in_order(indices: list[int], tmp_path: Path) -> None:
    files.write_video(tmp_path / "a.mp4", 5)
    with closing(open_video(tmp_path / "a.mp4")) as video, pytest.raises(ValueError, match="indices must be"):
        next(video.stream(np.array(indices, dtype=np.int64)))


def test_a_damaged_frame_is_an_error_that_names_the_video(tmp_path: Path) -> None:
    files.write_video(tmp_path / "a.mp4", 60)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = len(data) // 2
    data[start : start + 2000] = bytes(2000)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.mp4"), closing(open_video(tmp_path / "a.mp4")) as video:
        for _ in video.stream(np.arange(video.num_frames)):
            pass
