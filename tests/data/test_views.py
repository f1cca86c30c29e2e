"""Evaluation views: the published pixels, from frames that are decoded and resized once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.baselines.published.views import (
    opencv_bilinear,
    published_dense_view,
    published_uniform_view,
    resize_short_side,
)
from tests.data import files
from videomae_fast.data import (
    Annotations,
    FrameFolder,
    MissingVideo,
    Mixture,
    VideoFile,
    VideoSource,
    ViewBatch,
    ViewDataset,
    collate_views,
    read_annotations,
    uniform_frames,
)
from videomae_fast.data.readers import AvVideo
from videomae_fast.data.views import VIEW_SAMPLINGS, crop_boxes, resized_sides
from videomae_kernels import CroppedClips, patch_targets

OPTIONS = {"num_frames": 4, "frame_stride": 3, "size": (32, 32), "short_side": 32, "segments": 5, "crops": 3}


def views_of(*paths: Path, **changes: object) -> ViewDataset:
    annotations = Annotations([VideoFile(str(path), number) for number, path in enumerate(paths)])
    return ViewDataset(annotations, **{**OPTIONS, **changes})  # type: ignore[arg-type]


def pixels(clips: CroppedClips | None) -> np.ndarray:
    """(B, T, H, W, 3): every pixel of the clips in [0, 255]; views hold whole numbers."""
    assert clips is not None
    batch, channels, num_frames, height, width = clips.shape
    tokens = torch.arange(num_frames).expand(batch, -1)
    of_tokens = patch_targets(clips, tokens, (1, height, width), normalize_target=False) * 255
    assert (of_tokens - of_tokens.round()).abs().max() < 1e-4
    return of_tokens.round().view(batch, num_frames, height, width, channels).numpy()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], Path]:
    """Folders of frames of noise, of any number and size."""
    folder = tmp_path_factory.mktemp("noise")

    def write(num_frames: int, height: int, width: int) -> Path:
        path = folder / f"{num_frames}_{height}_{width}"
        if not path.exists():
            path.mkdir()
            noise = np.random.default_rng(num_frames).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
            for number, frame in enumerate(noise):
                Image.fromarray(frame).save(path / f"{number}.png")
        return path

    return write


def folder_views(path: Path, **changes: object) -> tuple[np.ndarray, np.ndarray, ViewDataset]:
    """The views of a folder of frames, the frames, and the data set."""
    num_frames = len(list(path.iterdir()))
    source = VideoSource(Annotations([FrameFolder(str(path), 0, num_frames, 7)]), template="{}.png")
    dataset = ViewDataset(Mixture([source]), **{**OPTIONS, **changes})  # type: ignore[arg-type]
    video = np.stack([np.asarray(Image.open(path / f"{number}.png")) for number in range(num_frames)])
    return pixels(dataset[0].clips), video, dataset


SHAPES = [(40, 48, 64), (23, 64, 48), (7, 33, 50), (12, 40, 40), (1, 20, 61), (30, 32, 45)]


@pytest.mark.parametrize(("num_frames", "height", "width"), SHAPES)
@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_views_are_the_published_ones(noisy: Callable, sampling: str, num_frames: int, height: int, width: int) -> None:
    found, video, _ = folder_views(noisy(num_frames, height, width), sampling=sampling)
    for number in range(15):
        view, views = divmod(number, 3), (5, 3)
        if sampling == "dense":
            expected = published_dense_view(video, 4, 3, 32, view, views)
        else:
            expected = published_uniform_view(video, 4, 32, view, views)
        difference = np.abs(found[number] - expected)
        assert difference.max() <= 1 and (difference == 0).mean() > 0.6
        if 32 in (height, width):  # nothing to resize
            assert (difference == 0).all()


def test_opencv_resizing_is_bilinear_to_rounding() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 31, 57, 3), dtype=np.uint8)
    for size in ((31, 57), (16, 40), (64, 64), (1, 1)):
        planes = torch.from_numpy(frames).permute(0, 3, 1, 2).double()
        exact = torch.nn.functional.interpolate(planes, size, mode="bilinear").permute(0, 2, 3, 1).numpy()
        assert np.abs(opencv_bilinear(frames, size) - exact).max() < 0.85
    for height, width in ((256, 340), (340, 256), (240, 240), (224, 500), (57, 31)):
        assert resize_short_side(np.zeros((1, height, width, 3), np.uint8), 224).shape[1:3] == resized_sides(
            height, width, 224
        )


def test_crops_of_a_340_by_256_source() -> None:
    assert resized_sides(256, 340, 224) == (224, 297)
    assert [box.left for box in crop_boxes(224, 297, (224, 224), 3)] == [0, 36, 73]
    assert [box.top for box in crop_boxes(297, 224, (224, 224), 3)] == [0, 36, 73]
    assert [tuple(box) for box in crop_boxes(297, 224, (224, 224), 1)] == [(36, 0, 224, 224)]
    assert [tuple(box)[:2] for box in crop_boxes(240, 320, (200, 224), 3)] == [(20, 0), (20, 48), (20, 96)]
    assert [tuple(box)[:2] for box in crop_boxes(240, 240, (200, 224), 2)] == [(0, 8), (40, 8)]


def test_one_view_is_in_the_middle(noisy: Callable) -> None:
    found, video, _ = folder_views(noisy(30, 32, 45), segments=1, crops=1)
    assert found.shape == (1, 4, 32, 32, 3)
    np.testing.assert_array_equal(found[0], video[9:19:3, :, 6:38])  # 10 strided frames, 4 of them from number 3 on


def test_oblong_views(noisy: Callable) -> None:
    found, video, _ = folder_views(noisy(30, 32, 45), size=(20, 28), segments=1, crops=2)
    np.testing.assert_array_equal(found, np.stack([video[9:19:3, 6:26, :28], video[9:19:3, 6:26, 17:]]))


def test_every_frame_is_decoded_once(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    image = AvVideo._image
    monkeypatch.setattr(
        AvVideo, "_image", lambda self, frame, index, stack: decoded.append(index) or image(self, frame, index, stack)
    )
    batch = views_of(clips / "h264.mp4")[0]
    assert sorted(decoded) == [0, *range(3, 57, 3), 57]  # 5 clips of 4 frames touch all 20 strided ones
    assert batch.clips is not None and batch.clips.shape == (15, 3, 4, 32, 32)
    assert batch.clips.frames.numel() == 20 * 32 * 42 * 3  # each frame once, where the clips are 60 larger ones


def test_frames_are_those_of_the_segments(clips: Path, stamp: Callable) -> None:
    dataset = views_of(clips / "h264.mp4", segments=3)
    places, frames = dataset.decode(0)
    assert [stamp(frame.numpy()) for frame in frames] == [0, 3, 6, 9, 24, 27, 30, 33, 48, 51, 54, 57]
    assert places.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_short_video_repeats_its_last_frame(clips: Path, stamp: Callable) -> None:
    dataset = views_of(clips / "more" / "seven.mp4", num_frames=8)
    places, frames = dataset.decode(0)
    assert places.tolist() == [[0, 1, 2, 2, 2, 2, 2, 2]] * 5
    assert [stamp(frame.numpy()) for frame in frames] == [0, 3, 6]
    batch = dataset[0]
    assert batch.clips is not None and batch.clips.frames.numel() == 8 * 32 * 42 * 3  # of equal segments one
    assert (pixels(batch.clips)[:3] == pixels(batch.clips)[12:]).all()


def test_the_stride_of_a_source_counts(clips: Path) -> None:
    source = VideoSource(Annotations([VideoFile(str(clips / "h264.mp4"))]), frame_stride=5)
    places, frames = ViewDataset(Mixture([source]), **{**OPTIONS, "segments": 1}).decode(0)  # type: ignore[arg-type]
    assert len(frames) == 4 and places.tolist() == [[0, 1, 2, 3]]
    assert files.stamp(frames[1].numpy()) - files.stamp(frames[0].numpy()) == 5


def test_unreadable_videos_are_missing(clips: Path, bad_clips: Path, tmp_path: Path) -> None:
    dataset = views_of(clips / "h264.mp4", bad_clips / "empty.mp4", tmp_path / "gone.mp4", clips / "mjpeg.avi")
    batches = list(DataLoader(dataset, batch_size=2, collate_fn=collate_views, num_workers=2))
    assert [batch.index.tolist() for batch in batches] == [[0], [3]]
    assert [batch.label.tolist() for batch in batches] == [[0], [3]]
    missing = [missing for batch in batches for missing in batch.missing]
    assert missing[0] == MissingVideo(1, str(bad_clips / "empty.mp4"), "the file is empty (0 bytes)")
    assert (missing[1].index, missing[1].path) == (2, str(tmp_path / "gone.mp4"))
    whole = collate_views([dataset[0], dataset[1], dataset[3]])
    assert whole.clips is not None and whole.clips.shape == (30, 3, 4, 32, 32) and whole.seconds > 0
    np.testing.assert_array_equal(pixels(whole.clips)[15:], pixels(dataset[3].clips))
    assert whole.index.tolist() == [0, 3] and len(whole.missing) == 1
    nothing = collate_views([dataset[1], dataset[2]])
    assert nothing.clips is None and nothing.index.shape == (0,) and len(nothing.missing) == 2


def test_a_batch_moves(clips: Path, bad_clips: Path) -> None:
    for batch in (views_of(clips / "h264.mp4")[0], views_of(bad_clips / "empty.mp4")[0]):
        moved = batch.to("cpu", non_blocking=True)
        assert isinstance(moved, ViewBatch) and torch.equal(moved.index, batch.index)
        assert (moved.clips is None) == (batch.clips is None)


def test_labels_that_are_not_there(clips: Path) -> None:
    annotations = read_annotations(clips)
    dataset = ViewDataset(annotations, **OPTIONS)  # type: ignore[arg-type]
    assert len(dataset) == 8 and dataset[2].label.tolist() == [-1]


def test_thin_frames_that_become_large_are_missing(noisy: Callable) -> None:
    path = noisy(4, 2, 90)
    source = VideoSource(Annotations([FrameFolder(str(path), 0, 4)]), template="{}.png")
    dataset = ViewDataset(Mixture([source]), **{**OPTIONS, "max_decoded_bytes": 100_000})  # type: ignore[arg-type]
    (missing,) = dataset[0].missing
    assert missing.reason.startswith("2 frames of 1440 x 32 pixels, from frames of 90 x 2, take")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": 0}, "segments must be at least 1, got 0"),
        ({"crops": 0}, "crops must be at least 1, got 0"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"frame_stride": 0}, "frame_stride must be at least 1"),
        ({"size": (0, 32)}, r"size must be \(height, width\)"),
        ({"size": (32, 40)}, r"short_side must be at least the height and width \(32, 40\) of a view, got 32"),
        ({"short_side": 31}, r"short_side must be at least the height and width \(32, 32\) of a view, got 31"),
        ({"sampling": "strided"}, r"sampling must be one of \('dense', 'uniform', 'fps'\), got 'strided'"),
        ({"reader": "opencv"}, "reader must be one of"),
        ({"max_decoded_bytes": 0}, "max_decoded_bytes must be at least 1"),
    ],
)
def test_bad_arguments(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        views_of(tmp_path, **change)


def test_numbers_out_of_range(clips: Path) -> None:
    with pytest.raises(IndexError, match="index 1 is out of range for 1 videos"):
        views_of(clips / "h264.mp4")[1]


@pytest.mark.parametrize("total", [5, 16, 47, 160])
def test_a_single_uniform_view_is_that_of_validation(total: int) -> None:
    """The middle frame of each part, not the first."""
    found = VIEW_SAMPLINGS["uniform"](total, 16, 4, 1)
    np.testing.assert_array_equal(found, uniform_frames(total, 16, None)[None])
