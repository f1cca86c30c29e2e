"""Sliding windows over a video: every frame is decoded, resized and copied once, however many windows show it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .crops import CropBox, crop_resize
from .readers.base import VideoReader

FITS = ("crop", "squash")


@dataclass(frozen=True)
class Windows:
    """Which frames of a video make its windows.

    Window i begins at frame i · stride and has `length` frames, `interval` frames apart. The last window ends with the
    last frame that windows reach: without it, the published windows leave up to stride − 1 frames at the end
    unseen. A video that is shorter than a window has one, which repeats its last frame.

    Args:
        length: T, frames of a window.
        interval: frames of the video from one frame of a window to the next.
        stride: frames of the video from the start of one window to that of the next.
        keep_tail: whether the last frames and short videos have a window. False: as published, which drops them.

    Raises:
        ValueError: a number is not positive.

    References:
        extract_tad_feature.py of VideoMAE V2: length 16, interval 1, stride 4 (THUMOS14) or 16 (FineAction).
    """

    length: int = 16
    interval: int = 1
    stride: int = 4
    keep_tail: bool = True

    def __post_init__(self) -> None:
        for name in ("length", "interval", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last frame of a window, both included."""
        return (self.length - 1) * self.interval + 1

    def starts(self, total: int) -> np.ndarray:
        """The first frame of each window.

        Args:
            total: frames of the video, at least 1.

        Returns:
            (n,) int64, ascending.

        Raises:
            ValueError: `total` is not positive.
        """
        if total < 1:
            raise ValueError(f"total must be at least 1, got {total}")
        room = total - self.span
        starts = np.arange(0, room + 1, self.stride, dtype=np.int64)
        if not self.keep_tail:
            return starts
        if room <= 0:
            return np.zeros(1, dtype=np.int64)
        return starts if starts[-1] == room else np.append(starts, room)


def stream_windows(
    video: VideoReader, windows: Windows, size: tuple[int, int], fit: str, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """The windows of a video, in batches. Neither the host nor the device holds more frames than a batch shows.

    The frames of a batch are one tensor on the device, and where windows overlap they are views of it: a frame is
    decoded, resized and copied once for each batch. The last window, where it does not begin at a multiple of the
    stride, is a batch of its own.

    Args:
        video: an open video.
        windows: which frames they show.
        size: (H, W) of the windows, in pixels.
        fit: how a frame becomes H x W pixels. "crop": scaled to cover them, with antialiasing, and the centre is cut
            out. "squash": both sides are scaled, which changes the aspect ratio, without antialiasing, as published.
        batch_size: windows of a batch.
        device: of the result.

    Yields:
        uint8 (n, 3, T, H, W), of any strides.

    Raises:
        ValueError: `fit` is unknown or a number is not positive.
        VideoError: a frame cannot be decoded.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {FITS}, got '{fit}'")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = windows.starts(video.num_frames)
    if len(starts) == 0:
        return
    frames = _Frames(video, _shown(starts, windows, video.num_frames), lambda frame: _fitted(frame, size, fit))
    for batch in _batches(starts, windows.stride, batch_size):
        yield frames.windows(batch, windows, device)


def _shown(starts: np.ndarray, windows: Windows, total: int) -> np.ndarray:
    offsets = np.arange(windows.length) * windows.interval
    return np.unique(np.minimum(starts[:, None] + offsets, total - 1))


def _batches(starts: np.ndarray, stride: int, batch_size: int) -> Iterator[np.ndarray]:
    """Consecutive starts that lie `stride` apart, up to `batch_size` of them."""
    even = len(starts) if len(starts) < 2 or starts[-1] - starts[-2] == stride else len(starts) - 1
    yield from (starts[first : min(first + batch_size, even)] for first in range(0, even, batch_size))
    if even < len(starts):
        yield starts[even:]


class _Frames:
    """Frames as they come, and those of them that a later window may show."""

    def __init__(self, video: VideoReader, numbers: np.ndarray, prepare: Callable[[np.ndarray], Tensor]) -> None:
        self._coming = zip(numbers.tolist(), video.stream(numbers), strict=True)
        self._last, self._prepare = video.num_frames - 1, prepare
        self._held: dict[int, Tensor] = {}

    def windows(self, starts: np.ndarray, windows: Windows, device: torch.device) -> Tensor:
        """The windows that begin at `starts`, which lie one stride apart."""
        shown = np.minimum(starts[:, None] + np.arange(windows.length) * windows.interval, self._last)
        numbers = np.unique(shown)
        self._hold(numbers)
        frames = torch.stack([self._held[number] for number in numbers.tolist()]).to(device)
        if len(starts) > 1 and windows.stride % windows.interval == 0 and windows.stride <= windows.span:
            return frames.unfold(0, windows.length, windows.stride // windows.interval).permute(0, 3, 4, 1, 2)
        places = torch.from_numpy(np.searchsorted(numbers, shown)).to(device)
        return frames[places].permute(0, 4, 1, 2, 3)

    def _hold(self, numbers: np.ndarray) -> None:
        self._held = {number: frame for number, frame in self._held.items() if number >= numbers[0]}
        for number in numbers.tolist():
            while number not in self._held:
                coming, frame = next(self._coming)
                self._held[coming] = self._prepare(frame)


def _fitted(frame: np.ndarray, size: tuple[int, int], fit: str) -> Tensor:
    """uint8 (H, W, 3)."""
    height, width, _ = frame.shape
    box = CropBox(0, 0, height, width)
    if fit == "crop":
        scale = max(size[0] / height, size[1] / width)
        inner = min(height, max(1, round(size[0] / scale))), min(width, max(1, round(size[1] / scale)))
        box = CropBox((height - inner[0]) // 2, (width - inner[1]) // 2, *inner)
    resize = "bilinear" if fit == "squash" else "antialias"
    return crop_resize(torch.from_numpy(np.ascontiguousarray(frame))[None], box, size, resize)[0]
