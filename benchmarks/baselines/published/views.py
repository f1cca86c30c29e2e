"""The evaluation views of VideoMAE V2, one by one, to compare with views that share their frames.

For every view anew, as the test mode of `dataset/datasets.py` of https://github.com/OpenGVLab/VideoMAEv2 does
(VideoClsDataset, RawFrameClsDataset): read the frames of the whole video, resize all of them, cut the view out, and
make a normalised tensor of it as `dataset/volume_transforms.py` (ClipToTensor) and `dataset/video_transforms.py`
(Normalize) do. Written from the specification.

OpenCV's bilinear resize of uint8 is written out, as OpenCV is not needed otherwise: two taps around
(i + 1/2) · scale - 1/2 without antialiasing, weights rounded to 11 bits, and sums shifted right, so that a pixel can be
1 below the rounded exact value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD

_BITS = 11
Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]  # frames, (height, width)


def published_dense_view(
    video: Any,  # (n, height, width, 3) uint8, all frames; or what has a length and is indexed by a list of numbers
    num_frames: int,
    frame_stride: int,
    short_side: int,
    view: tuple[int, int],  # numbers of the segment and the crop
    views: tuple[int, int],  # segments and crops, both more than 1
    resize: Resize | None = None,  # opencv_bilinear
) -> np.ndarray:
    """(T, short_side, short_side, 3) uint8."""
    numbers = list(range(0, len(video), frame_stride))
    numbers += numbers[-1:] * (num_frames - len(numbers))
    frames = resize_short_side(video[numbers], short_side, resize)
    step = max((len(frames) - num_frames) / (views[0] - 1), 0)
    start = int(view[0] * step)
    return _crop(frames[start : start + num_frames], view[1], views[1])


def published_uniform_view(
    video: np.ndarray, num_frames: int, short_side: int, view: tuple[int, int], views: tuple[int, int]
) -> np.ndarray:
    """(T, short_side, short_side, 3) uint8."""
    tick = len(video) / float(num_frames)
    numbers = sorted(int(c * tick / views[0] + tick * x) for c in range(views[0]) for x in range(num_frames))
    frames = resize_short_side(video[numbers], short_side)
    return _crop(frames[view[0] :: views[0]], view[1], views[1])


def published_tensor(view: np.ndarray) -> Tensor:
    """(3, T, H, W) float32, normalised, of frames (T, H, W, 3) uint8; by way of float64, and with a copy."""
    planes = np.zeros((3, *view.shape[:3]))
    for number, frame in enumerate(view):
        planes[:, number] = frame.transpose(2, 0, 1)
    clip = torch.from_numpy(planes).float() / 255
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return clip.clone().sub_(mean).div_(std)


def resize_short_side(frames: np.ndarray, short_side: int, resize: Resize | None = None) -> np.ndarray:
    """Frames whose shorter side is `short_side`, and whose longer side is rounded down."""
    height, width = frames.shape[1:3]
    if min(height, width) == short_side:
        return frames
    long_side = int(short_side * max(height, width) / min(height, width))
    resize = resize or opencv_bilinear
    return resize(frames, (long_side, short_side) if width < height else (short_side, long_side))


def opencv_bilinear(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`cv2.resize` of every frame to (height, width) with INTER_LINEAR, in integers as its C++ code has them."""
    (top, bottom, down), (left, right, across) = (_taps(*axis) for axis in zip(frames.shape[1:3], size, strict=True))
    wide = frames[:, :, left] * across[0][:, None] + frames[:, :, right] * across[1][:, None]  # 8 + 11 bits
    parts = [
        (wide[:, rows] >> 4) * weights[:, None, None] >> 16 for rows, weights in zip((top, bottom), down, strict=True)
    ]
    return ((parts[0] + parts[1] + 2) >> 2).astype(np.uint8)


def _taps(side: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second line of every output line, and their weights (2, out) int64 in units of 2**-11."""
    place = ((np.arange(out) + 0.5) * (side / out) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = np.where((first < 0) | (first >= side - 1), 0, place - first)
    first = first.clip(0, side - 1)
    weights = np.rint(np.stack([1 - share, share]) * (1 << _BITS)).astype(np.int64)
    return first, np.minimum(first + 1, side - 1), weights


def _crop(frames: np.ndarray, crop: int, crops: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    side = min(height, width)
    start = int(crop * (max(height, width) - side) / (crops - 1))
    return frames[:, start : start + side] if height >= width else frames[:, :, start : start + side]
