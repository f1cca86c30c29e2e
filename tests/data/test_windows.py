"""Sliding windows: which frames they show, that each is decoded and resized once, and what becomes of the tail."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from videomae_fast.data.crops import CropBox, crop_resize
from videomae_fast.data.windows import Windows, stream_windows

CPU = torch.device("cpu")


class Numbered:
    """A video whose frame n has the value n, and who counts the frames it was asked for."""

    def __init__(self, num_frames: int, height: int = 6, width: int = 8) -> None:
        self.num_frames, self.size, self.streamed = num_frames, (height, width), []

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        assert (np.diff(indices) > 0).all()
        for index in indices.tolist():
            self.streamed.append(index)
            yield np.full((*self.size, 3), index, dtype=np.uint8)


def shown(video: Any, windows: Windows, batch_size: int = 3) -> list[list[int]]:
    """The frame numbers of each window."""
    batches = list(stream_windows(video, windows, (6, 8), "crop", batch_size, CPU))
    assert all(b.dtype == torch.uint8 and b.shape[1:] == (3, windows.length, 6, 8) for b in batches)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    return [window[0, :, 0, 0].tolist() for batch in batches for window in batch]


def test_published_starts() -> None:
    """⌊(n − 16) / stride⌋ + 1 windows, the tail dropped; with it, one more that ends with the last frame."""
    for total in (16, 17, 19, 20, 33, 100):
        published = Windows(16, 1, 4, keep_tail=False).starts(total)
        assert published.tolist() == list(range(0, total - 15, 4)) and len(published) == (total - 16) // 4 + 1
        starts = Windows(16, 1, 4).starts(total)
        assert starts[-1] == total - 16 and len(starts) == len(published) + (published[-1] != total - 16)
    assert Windows(16, 1, 4, keep_tail=False).starts(15).tolist() == []
    assert Windows(16, 1, 4).starts(15).tolist() == [0]


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 4, 6, 11, 30])
@pytest.mark.parametrize("total", [1, 4, 7, 8, 23, 40])
def test_windows_show_their_frames_and_each_is_decoded_once(total: int, stride: int, interval: int) -> None:
    windows = Windows(4, interval, stride)
    expected = [[min(start + k * interval, total - 1) for k in range(4)] for start in windows.starts(total).tolist()]
    video = Numbered(total)
    assert shown(video, windows) == expected
    assert video.streamed == sorted({number for window in expected for number in window})


def test_overlapping_windows_share_memory() -> None:
    (batch,) = stream_windows(Numbered(19), Windows(16, 1, 1), (6, 8), "crop", 8, CPU)
    assert len(batch) == 4 and batch.untyped_storage().nbytes() == 19 * 6 * 8 * 3


def test_few_frames_are_held() -> None:
    video = Numbered(200)
    batches = stream_windows(video, Windows(16, 1, 4), (6, 8), "crop", 2, CPU)
    next(batches)
    assert len(video.streamed) == 20


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [(4, 4), (12, 6), (5, 9)])
def test_frames_are_fitted(fit: str, size: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (2, 10, 14, 3), dtype=torch.uint8)

    class Video:
        num_frames = 2

        def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
            return iter(frames.numpy()[indices])

    (batch,) = stream_windows(Video(), Windows(2), size, fit, 1, CPU)  # type: ignore[arg-type]
    box = {
        ("squash", (4, 4)): CropBox(0, 0, 10, 14),
        ("squash", (12, 6)): CropBox(0, 0, 10, 14),
        ("squash", (5, 9)): CropBox(0, 0, 10, 14),
        ("crop", (4, 4)): CropBox(0, 2, 10, 10),
        ("crop", (12, 6)): CropBox(0, 4, 10, 5),
        ("crop", (5, 9)): CropBox(1, 0, 8, 14),
    }[fit, size]
    resize = "bilinear" if fit == "squash" else "antialias"
    assert torch.equal(batch[0].permute(1, 2, 3, 0), crop_resize(frames, box, size, resize))


def test_errors() -> None:
    for name in ("length", "interval", "stride"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            Windows(**{name: 0})
    with pytest.raises(ValueError, match="total must be at least 1, got 0"):
        Windows().starts(0)
    with pytest.raises(ValueError, match=r"fit must be one of \('crop', 'squash'\), got 'pad'"):
        next(stream_windows(Numbered(9), Windows(), (6, 8), "pad", 1, CPU))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(stream_windows(Numbered(9), Windows(), (6, 8), "crop", 0, CPU))
