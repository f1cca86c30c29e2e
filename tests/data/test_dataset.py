import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from videomae_fast.data import (
    Annotations,
    BadVideo,
    ClipDataset,
    FrameFolder,
    UnreadableVideosError,
    VideoFile,
    collate,
    read_annotations,
)
from videomae_fast.data.readers import AvVideo
from videomae_kernels import CroppedClips, crop_clips, patch_targets

OPTIONS = {"num_frames": 4, "frame_stride": 2, "size": (32, 32), "crops_per_video": 2, "seed": 3}


def dataset_of(*folders: Path, **changes: object) -> ClipDataset:
    entries = [VideoFile(entry.path) for folder in folders for entry in read_annotations(folder)]
    return ClipDataset(Annotations(entries), **{**OPTIONS, **changes})  # type: ignore[arg-type]


def test_a_sample(clips: Path) -> None:
    sample = dataset_of(clips)[(1, 21)]
    assert sample.clips.shape == (2, 3, 4, 32, 32) and sample.clips.resize == "antialias"
    assert sample.sample.dtype == torch.int64 and sample.sample.tolist() == [42, 43]
    assert sample.bad_videos == [] and sample.seconds > 0


def test_every_video_gives_clips_of_the_wanted_size(clips: Path) -> None:
    dataset = dataset_of(clips, size=(24, 40))
    assert len(dataset) == 8
    for index in range(len(dataset)):
        sample = dataset[(index, index)]
        assert sample.clips.shape == (2, 3, 4, 24, 40) and not sample.bad_videos


def test_frames_are_the_sampled_ones(clips: Path, stamp: Callable) -> None:
    """Frames `frame_stride` apart, in order, from different places."""
    dataset = dataset_of(clips)
    index = [Path(entry.path).name for entry in dataset.annotations].index("h264.mkv")
    starts = set()
    for number in range(20):
        stamps = [stamp(frame.numpy()) for frame in dataset.draw(index, number).frames]
        assert np.diff(stamps).tolist() == [2, 2, 2]
        assert dataset.draw(index, number).frame_numbers.tolist() == stamps
        starts.add(stamps[0])
    assert len(starts) > 10


@pytest.mark.parametrize(
    ("sampling", "distances"),
    [
        ("strided", {8}),
        ("dense", {8, 9, 10, 11}),
        ("uniform", set(range(1, 30))),
    ],  # of 4 frames at a stride of 8, out of 60
)
def test_sampling_rules(sampling: str, distances: set[int], clips: Path, stamp: Callable) -> None:
    dataset = dataset_of(clips, sampling=sampling, frame_stride=8)
    index = [Path(entry.path).name for entry in dataset.annotations].index("h264.mkv")
    found: set[int] = set()
    for number in range(20):
        drawn = dataset.draw(index, number)
        stamps = [stamp(frame.numpy()) for frame in drawn.frames]
        assert drawn.frame_numbers.tolist() == stamps == dataset.draw(index, number).frame_numbers.tolist()
        found |= set(np.diff(stamps).tolist())
        if sampling == "uniform":
            assert [stamp // 15 for stamp in stamps] == [0, 1, 2, 3]
    assert found <= distances and len(found) >= min(len(distances), 2)


def test_fine_tuning_clips_share_frames_and_have_their_own_crops(clips: Path) -> None:
    """`num_sample` 2: one decoded clip, two crops and flips, with the label of its video."""
    options = {"sampling": "dense", "crop": "random-resized", "crop_areas": (0.08, 1), "hflip": True}
    drawn = [dataset_of(clips, **options).draw(0, number) for number in range(60)]
    areas = np.array([crop.box.height * crop.box.width for one in drawn for crop in one.crops]) / (96 * 128)
    assert areas.min() < 0.15 and areas.max() > 0.9 and all(len(set(one.crops)) == 2 for one in drawn)
    assert 30 < sum(crop.flipped for one in drawn for crop in one.crops) < 90


@pytest.mark.parametrize("resize", ["antialias", "pillow"])
@pytest.mark.parametrize("size", [(32, 32), (96, 96)])  # smaller than the frames, so resized when decoded; and not
def test_clips_are_the_crops_of_the_decoded_frames(size: tuple[int, int], resize: str, clips: Path) -> None:
    dataset = dataset_of(clips, size=size, crops_per_video=4, hflip=True, resize=resize)
    sample, drawn = dataset[(0, 5)], dataset.draw(0, 5)
    boxes, flipped = zip(*drawn.crops, strict=True)
    assert set(flipped) == {False, True} and len(set(boxes)) > 1
    expected = crop_clips([drawn.frames], [0] * 4, boxes, flipped, size, resize)
    difference = (pixels(sample.clips) - pixels(expected)).abs()
    rounded = size == (32, 32) and resize == "antialias"  # Pillow's pixels are integers already
    assert difference.max() <= (1.5 if rounded else 1e-4)


def pixels(clips: CroppedClips) -> torch.Tensor:
    """Every pixel of the clips, in [0, 255]."""
    tokens = torch.arange(clips.shape[2]).expand(clips.shape[0], -1)
    return patch_targets(clips, tokens, (1, *clips.size), normalize_target=False) * 255


def test_decodes_once_for_all_crops(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    published = AvVideo.frames
    monkeypatch.setattr(AvVideo, "frames", lambda self, indices: calls.append(1) or published(self, indices))
    sample = dataset_of(clips, crops_per_video=4)[(0, 0)]
    assert len(calls) == 1
    assert len({clip.numpy().tobytes() for clip in pixels(sample.clips)}) > 1  # each clip has its own crop


@pytest.mark.parametrize("crop", ["multi-scale", "random-resized"])
def test_a_sample_is_a_function_of_seed_and_number(crop: str, clips: Path) -> None:
    options = {"crop": crop, "hflip": True}
    dataset = dataset_of(clips, **options)
    drawn = pixels(dataset[(0, 5)].clips)
    assert torch.equal(drawn, pixels(dataset_of(clips, **options)[(0, 5)].clips))
    assert not torch.equal(drawn, pixels(dataset[(0, 6)].clips))
    assert not torch.equal(drawn, pixels(dataset_of(clips, seed=4, **options)[(0, 5)].clips))


def test_crops_are_flipped_only_when_asked(clips: Path) -> None:
    plain, flipped = (dataset_of(clips, hflip=hflip, crops_per_video=40).draw(0, 0).crops for hflip in (False, True))
    assert not any(crop.flipped for crop in plain) and 8 < sum(crop.flipped for crop in flipped) < 32


def test_unreadable_videos_are_replaced_and_named(clips: Path, bad_clips: Path) -> None:
    dataset = dataset_of(bad_clips, clips)  # the first four cannot be read
    for number in range(30):
        sample, again = dataset[(1, number)], dataset[(1, number)]
        assert sample.clips.shape == (2, 3, 4, 32, 32) and sample.sample.tolist() == [2 * number, 2 * number + 1]
        assert sample.bad_videos[0] == BadVideo(str(bad_clips / "empty.mp4"), "the file is empty (0 bytes)")
        assert len({bad_video.path for bad_video in sample.bad_videos}) == len(sample.bad_videos)  # none is tried twice
        assert torch.equal(sample.clips.frames, again.clips.frames) and sample.bad_videos == again.bad_videos
        drawn = dataset.draw(1, number)
        assert drawn.bad_videos == sample.bad_videos and drawn.index >= 4
    assert {len(dataset[(1, number)].bad_videos) for number in range(30)} >= {1, 2}


def test_labels_are_those_of_the_videos_shown(clips: Path, bad_clips: Path) -> None:
    videos = [
        VideoFile(str(bad_clips / "empty.mp4"), 7),
        VideoFile(str(clips / "h264.mp4")),
        VideoFile(str(clips / "mjpeg.avi"), 2**40),
    ]
    dataset = ClipDataset(Annotations(videos), **OPTIONS)  # type: ignore[arg-type]
    expected = {1: -1, 2: 2**40}
    for number in range(12):
        label = dataset[(0, number)].label
        assert label is not None and label.dtype == torch.int64
        assert label.tolist() == [expected[dataset.draw(0, number).index]] * 2  # not that of the bad video
    assert {dataset.draw(0, number).index for number in range(12)} == {1, 2}
    batch = collate([dataset[(2, 0)], dataset[(1, 1)]])
    assert batch.label is not None and batch.label.tolist() == [2**40] * 2 + [-1] * 2
    assert dataset_of(clips)[(0, 0)].label is None


def test_missing_frames_are_replaced_too(clips: Path, tmp_path: Path) -> None:
    entries = [FrameFolder(str(tmp_path), 1, 8), VideoFile(str(clips / "h264.mp4"))]
    sample = ClipDataset(Annotations(entries), **OPTIONS)[(0, 0)]  # type: ignore[arg-type]
    assert sample.bad_videos == [BadVideo(str(tmp_path), "img_00001.jpg: no such frame")]


def test_nothing_readable_is_an_error_that_names_all(bad_clips: Path) -> None:
    with pytest.raises(UnreadableVideosError, match="4 videos in a row") as caught:
        dataset_of(bad_clips)[(1, 0)]
    for name in ("empty.mp4: the file is empty", "garbage.mp4: av cannot open", "half.mp4: av cannot open"):
        assert name in str(caught.value)


def test_max_replacements(clips: Path, bad_clips: Path) -> None:
    with pytest.raises(UnreadableVideosError, match="1 videos in a row"):
        dataset_of(bad_clips, clips, max_replacements=0)[(0, 0)]


def test_missing_package_is_fatal(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"videomae-fast\[video\]"):
        dataset_of(clips)[(0, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"frame_stride": 0}, "frame_stride must be at least 1"),
        ({"crops_per_video": 0}, "crops_per_video must be at least 1"),
        ({"size": (32,)}, r"size must be \(height, width\)"),
        ({"size": (0, 32)}, r"size must be \(height, width\)"),
        ({"max_replacements": -1}, "max_replacements must be at least 0"),
        ({"crop": "center"}, r"crop must be one of \('multi-scale', 'random-resized'\), got 'center'"),
        ({"sampling": "random"}, r"sampling must be one of \('strided', 'dense', 'uniform'\), got 'random'"),
        ({"crop_areas": (0.08, 1)}, r"crop_areas \(0.08, 1\) needs crop 'random-resized', got 'multi-scale'"),
        ({"crop_areas": (0, 1), "crop": "random-resized"}, "crop areas must be"),
        ({"resize": "bicubic"}, r"resize must be one of \('bilinear', 'antialias', 'pillow'\), got 'bicubic'"),
        ({"reader": "opencv"}, r"reader must be one of \['av', 'decord', 'torchcodec'\]"),
        ({"short_side": -1}, "short_side must not be negative"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*64\)"),
        ({"annotations": Annotations([])}, "annotations are empty"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    options = {"annotations": Annotations([VideoFile("a.mp4")]), **OPTIONS, **change}
    with pytest.raises(ValueError, match=message):
        ClipDataset(**options)


def test_real_clips_in_the_lists(extra_clips: Path) -> None:
    """Every file of the folder gives a clip, its own or a replacement's with the file named."""
    annotations = read_annotations(extra_clips)
    dataset = ClipDataset(annotations, **OPTIONS)  # type: ignore[arg-type]
    for index in range(len(dataset)):
        sample = dataset[(index, index)]
        assert sample.clips.shape == (2, 3, 4, 32, 32)
        if sample.bad_videos:
            assert sample.bad_videos[0].path == annotations[index].path
