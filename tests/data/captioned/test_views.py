"""Evaluation views of captioned entries: the frames of a part, at a frame rate, and images."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from videomae_fast.data import Annotations, CaptionedEntry, CaptionedVideos, VideoFile, ViewDataset

OPTIONS = {"num_frames": 4, "frame_stride": 2, "size": (16, 16), "short_side": 16, "segments": 1, "crops": 1}


def shown(folder: Path, stamp: Callable, name: str, start: float, end: float, **options: object) -> list[list[int]]:
    """The frames of each segment, as the pixels say."""
    entry = CaptionedEntry(VideoFile(str(folder / name)), ("a caption",), start, end)
    dataset = ViewDataset(CaptionedVideos([entry]), **(OPTIONS | options))  # type: ignore[arg-type]
    places, frames = dataset.decode(0)
    stamps = [stamp(frame.numpy()) for frame in frames]
    return [[stamps[place] for place in segment] for segment in places]


@pytest.mark.parametrize(
    ("name", "start", "end", "options", "expected"),
    [  # of 25 frames per second
        ("4.mp4", 0, math.inf, {"sampling": "fps"}, [[25, 75, 125, 175]]),  # 8 s, spread
        ("1.mp4", 0, math.inf, {"sampling": "fps"}, [[12, 37, 62, 87]]),
        ("0.mp4", 0, math.inf, {"sampling": "fps", "fps": 5.0}, [[7, 22, 37, 52]]),
        ("4.mp4", 1, 3, {"sampling": "fps", "fps": 2.0}, [[31, 43, 56, 68]]),
        ("4.mp4", 4, 8, {"sampling": "uniform"}, [[112, 137, 162, 187]]),
        ("4.mp4", 4, 8, {"sampling": "dense"}, [[146, 148, 150, 152]]),
        ("4.mp4", 0, 4, {"sampling": "dense", "segments": 2}, [[0, 2, 4, 6], [92, 94, 96, 98]]),
    ],
)  # fmt: skip
def test_frames_of_a_part(
    name: str,
    start: float,
    end: float,
    options: dict[str, object],
    expected: list[list[int]],
    captioned_folder: Path,
    stamp: Callable,
) -> None:
    assert shown(captioned_folder, stamp, name, start, end, **options) == expected


def test_a_part_after_the_end_is_missing(captioned_folder: Path) -> None:
    entry = CaptionedEntry(VideoFile(str(captioned_folder / "0.mp4")), ("a caption",), 9.0, math.inf)
    batch = ViewDataset(CaptionedVideos([entry]), **OPTIONS)[0]  # type: ignore[arg-type]
    assert batch.clips is None and "its clip starts at 9 s" in batch.missing[0].reason


def test_videos_without_captions_have_frame_rates_too(captioned_folder: Path, stamp: Callable) -> None:
    videos = Annotations([VideoFile(str(captioned_folder / "1.mp4"), 0)])
    dataset = ViewDataset(videos, **OPTIONS, sampling="fps")  # type: ignore[arg-type]
    assert [stamp(frame.numpy()) for frame in dataset.decode(0)[1]] == [12, 37, 62, 87]
    assert dataset[0].label.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "fps", "segments": 2}, "segments must be 1 with sampling 'fps', got 2"),
        ({"fps": 0.0}, "fps must be positive, got 0.0"),
        ({"fps": math.nan}, "fps must be positive, got nan"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewDataset(Annotations([VideoFile("a.mp4", 0)]), **(OPTIONS | options))  # type: ignore[arg-type]
