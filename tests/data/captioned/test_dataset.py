"""Clips with captions: which frames, which caption, and what happens to what cannot be read."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videomae_fast.data import (
    BadVideo,
    CaptionedDataset,
    CaptionedEntry,
    CaptionedVideos,
    FrameFolder,
    Mixture,
    UnreadableVideosError,
    VideoFile,
    VideoSource,
    split_kinds,
)
from videomae_fast.data.readers import AvVideo

OPTIONS = {"size": (16, 16), "seed": 3}


def entry(folder: Path, name: str, start: float = 0.0, end: float = math.inf) -> CaptionedEntry:
    return CaptionedEntry(VideoFile(str(folder / name)), (f"of {name}",), start, end)


def dataset_of(*entries: CaptionedEntry, **options: object) -> CaptionedDataset:
    return CaptionedDataset(CaptionedVideos(entries), **{"num_frames": 4, **OPTIONS, **options})  # type: ignore[arg-type]


def shown(dataset: CaptionedDataset, stamp: Callable[[np.ndarray], int], number: int = 0) -> list[int]:
    """The frames of a clip, as the reader is asked for them and as the pixels say."""
    drawn = dataset.draw(0, number)
    stamps = [stamp(frame.numpy()) for frame in drawn.frames]
    assert drawn.frame_numbers.tolist() == stamps
    return stamps


@pytest.mark.parametrize(
    ("name", "start", "end", "fps", "expected", "repeated"),
    [  # of 25 frames per second
        ("4.mp4", 0, math.inf, 1, [25, 75, 125, 175], 0),  # 8 s, spread
        ("1.mp4", 0, math.inf, 1, [12, 37, 62, 87], 0),  # 4 s: the middle of each second
        ("0.mp4", 0, math.inf, 1, [12, 37, 37, 37], 1),  # 2.4 s: shorter, so the last one is repeated
        ("3.mp4", 0, math.inf, 1, [6, 6, 6, 6], 1),
        ("0.mp4", 0, math.inf, 5, [7, 22, 37, 52], 0),
        ("4.mp4", 1, 3, 2, [31, 43, 56, 68], 0),
        ("4.mp4", 7.4, 99, 5, [187, 192, 197, 197], 1),  # an end after the video's is the video's
        ("4.mp4", 7.99, math.inf, 1, [199, 199, 199, 199], 1),
    ],
)  # fmt: skip
def test_frames_by_the_second(
    name: str,
    start: float,
    end: float,
    fps: float,
    expected: list[int],
    repeated: int,
    captioned_folder: Path,
    stamp: Callable,
) -> None:
    dataset = dataset_of(entry(captioned_folder, name, start, end), fps=fps)
    assert shown(dataset, stamp) == shown(dataset, stamp, 7) == expected
    assert dataset[(0, 0)].repeated == repeated


def test_strides_stay_in_the_part(captioned_folder: Path, stamp: Callable) -> None:
    dataset = dataset_of(entry(captioned_folder, "4.mp4", 2, 4), sampling="strided", frame_stride=5)
    clips = [shown(dataset, stamp, number) for number in range(40)]
    assert all(np.diff(clip).tolist() == [5, 5, 5] for clip in clips)
    assert min(clip[0] for clip in clips) >= 50 and max(clip[-1] for clip in clips) < 100
    assert len({clip[0] for clip in clips}) > 10


def test_only_the_frames_used_are_decoded(captioned_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    frames = AvVideo.frames
    monkeypatch.setattr(AvVideo, "frames", lambda self, indices: asked.extend(indices) or frames(self, indices))
    dataset_of(entry(captioned_folder, "4.mp4"))[(0, 0)]
    assert asked == [25, 75, 125, 175]


def test_a_sample_of_a_video(captioned: Mixture) -> None:
    videos, _ = split_kinds(captioned)
    dataset = CaptionedDataset(videos, num_frames=4, **OPTIONS)  # type: ignore[arg-type]
    batch = dataset[(1, 21)]
    assert batch.clips.shape == (1, 3, 4, 16, 16) and batch.sample.tolist() == [21] and not batch.is_image
    assert batch.captions is None and batch.label is None and batch.texts[0] in ("video 1", "film 1")
    drawn = Counter(dataset[(1, number)].texts[0] for number in range(60))
    assert set(drawn) == {"video 1", "film 1"} and min(drawn.values()) > 15
    again = CaptionedDataset(videos, num_frames=4, **OPTIONS)  # type: ignore[arg-type]
    texts = [again[(1, number)].texts for number in range(10)]
    assert texts == [dataset[(1, number)].texts for number in range(10)]
    other = CaptionedDataset(videos, num_frames=4, size=(16, 16), seed=4)  # type: ignore[arg-type]
    assert texts != [other[(1, number)].texts for number in range(10)]


def test_images_are_clips_of_one_frame(captioned: Mixture) -> None:
    _, images = split_kinds(captioned)
    dataset = CaptionedDataset(images, num_frames=1, **OPTIONS)  # type: ignore[arg-type]
    for index in range(3):
        batch, drawn = dataset[(index, index)], dataset.draw(index, index)
        assert batch.clips.shape == (1, 3, 1, 16, 16) and batch.is_image and batch.repeated == 0
        assert batch.texts == (f"image {index}",)
        assert drawn.frames.shape == (1, 40, 50, 3) and abs(drawn.frames.float().mean() - (60 * index + 50)) < 3


def test_ids_tell_videos_and_captions_apart(captioned_folder: Path) -> None:
    entries = [
        entry(captioned_folder, "0.mp4"),
        entry(captioned_folder, "0.mp4", 1),
        entry(captioned_folder, "0.mp4")._replace(captions=("other",)),
    ]
    first, part, other = (dataset_of(one)[(0, 0)] for one in entries)
    assert first.video_id != part.video_id and first.video_id == other.video_id
    assert first.caption_id == part.caption_id and first.caption_id != other.caption_id


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (("0.mp4", 2.4, 3.0), "has 2.400 s, and its clip starts at 2.4 s"),
        (("gone.mp4", 0, math.inf), "no such file"),
    ],
)
def test_bad_entries_are_replaced_with_the_caption_of_another(
    bad: tuple[str, float, float], reason: str, captioned_folder: Path
) -> None:
    batch = dataset_of(entry(captioned_folder, *bad), entry(captioned_folder, "1.mp4"))[(0, 5)]
    assert batch.texts == ("of 1.mp4",) and batch.bad_videos == [BadVideo(str(captioned_folder / bad[0]), reason)]
    assert batch.video_id == dataset_of(entry(captioned_folder, "1.mp4"))[(0, 0)].video_id
    with pytest.raises(UnreadableVideosError, match=reason):
        dataset_of(entry(captioned_folder, *bad))[(0, 5)]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_bad_images_are_replaced(content: bytes, tmp_path: Path, captioned_folder: Path) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    entries = entry(tmp_path, "bad.png"), entry(captioned_folder, "0.jpg")
    batch = dataset_of(*entries, num_frames=1)[(0, 0)]
    (bad,) = batch.bad_videos
    assert batch.texts == ("of 0.jpg",) and bad.path == str(tmp_path / "bad.png") and bad.reason


def test_seconds_of_what_states_none(tmp_path: Path, captioned_folder: Path) -> None:
    folder = CaptionedEntry(FrameFolder(str(tmp_path), 1, 8), ("x",))
    dataset = dataset_of(folder, entry(captioned_folder, "0.mp4"))
    assert "does not state its frames per second" in dataset[(0, 0)].bad_videos[0].reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"fps": math.nan}, "fps must be positive, got nan"),
        ({"sampling": "random"}, r"sampling must be one of \('strided', 'dense', 'uniform', 'fps'\), got 'random'"),
        ({"annotations": CaptionedVideos([])}, "annotations are empty"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    options = {"annotations": CaptionedVideos([entry(Path(), "a.mp4")]), "num_frames": 4, **OPTIONS, **change}
    with pytest.raises(ValueError, match=message):
        CaptionedDataset(**options)


def test_kinds_are_apart(captioned: Mixture) -> None:
    with pytest.raises(ValueError, match="must be all images or all videos, got both"):
        CaptionedDataset(captioned, num_frames=1, **OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_frames must be 1 for images, got 4"):
        dataset_of(entry(Path(), "a.jpg"))
    plain = Mixture([VideoSource(CaptionedVideos([entry(Path(), "a.mp4")]))])
    assert split_kinds(plain).images is None
