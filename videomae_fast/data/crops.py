"""Multi-scale cropping on uint8 frames: pick a box, then cut and resize all frames of a clip at once."""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch

SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORTION = 1  # how far apart the scale indices of height and width may be: 10 pairs
SNAP = 3  # a side closer than this to the wanted size becomes the wanted size (published: abs(x - size) < 3)
# Positions (down, right) in quarters of the free space: corners, centre, edge centres, quarter points.
OFFSETS = (*product((0, 2, 4), repeat=2), *product((1, 3), repeat=2))


class CropBox(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def multi_scale_crop_box(height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> CropBox:
    """Draw one of 10 box shapes and one of 13 positions in frames of `height` x `width`; `size` is (H, W).

    The base is the largest box with the aspect ratio of `size` that fits (a square of the shorter side if H == W, as
    published). Each side is scaled by one of `SCALES`, the two scale indices at most one apart, and snapped to `size`
    when less than 3 pixels from it -- here only if that fits the frame; the published code pads with black instead.

    Errors: ValueError if a side is not positive.
    Source: GroupMultiScaleCrop(224, [1, .875, .75, .66]) in datasets/transforms.py of VideoMAEv2.
    """
    if min(height, width, *size) < 1:
        raise ValueError(f"sides must be at least 1, got frames of {height} x {width} and size {tuple(size)}")
    # Integer arithmetic: min(height, width) exactly when H == W.
    base_height = min(height, width * size[0] // size[1]) or 1
    base_width = min(width, height * size[1] // size[0]) or 1
    heights = [_side(base_height, scale, size[0], height) for scale in SCALES]
    widths = [_side(base_width, scale, size[1], width) for scale in SCALES]
    steps = range(len(SCALES))
    pairs = [(i, j) for i, j in product(steps, steps) if abs(i - j) <= MAX_DISTORTION]
    row, column = pairs[rng.integers(len(pairs))]
    down, right = OFFSETS[rng.integers(len(OFFSETS))]
    crop_height, crop_width = heights[row], widths[column]
    top = down * ((height - crop_height) // 4)
    left = right * ((width - crop_width) // 4)
    return CropBox(top, left, crop_height, crop_width)


def _side(base: int, scale: float, wanted: int, limit: int) -> int:
    side = max(1, int(base * scale))
    return wanted if abs(side - wanted) < SNAP and wanted <= limit else side


def crop_resize(frames: torch.Tensor, box: CropBox, size: tuple[int, int]) -> torch.Tensor:
    """Cut `box` from frames uint8 (T, H, W, 3) and resize to `size`: uint8 (T, *size, 3), contiguous.

    Bilinear with antialiasing, Pillow's filter: equal to it within 1 of 255.
    Errors: TypeError if frames are not uint8; ValueError for another shape or a box outside the frames.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be (T, H, W, 3), got {tuple(frames.shape)}")
    top, left, height, width = box
    _, full_height, full_width, _ = frames.shape
    fits = 0 <= top <= full_height - height and 0 <= left <= full_width - width and min(height, width) >= 1
    if not fits or min(size) < 1:
        raise ValueError(f"cannot cut {box} from frames of {full_height} x {full_width} and resize to {tuple(size)}")
    cut = frames[:, top : top + height, left : left + width]
    if (height, width) == tuple(size):
        return cut.contiguous()
    # The permuted view is channels-last in memory, where interpolate is two to three times as fast.
    planes = torch.nn.functional.interpolate(cut.permute(0, 3, 1, 2), size=tuple(size), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous()
