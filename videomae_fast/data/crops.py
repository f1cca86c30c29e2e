"""Draw crop boxes, and cut clips into the fewest bytes from which the ops can make them."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from videomae_kernels import CroppedClips, crop_clips

from .._optional import require

SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORTION = 1  # largest difference of the scale indices of height and width: 10 pairs
SNAP = 3  # a side closer than this to the wanted size snaps to it (published: abs(x - size) < 3)
# Positions (down, right) in quarters of the free space: corners, centre, edge centres, quarter points.
OFFSETS = (*product((0, 2, 4), repeat=2), *product((1, 3), repeat=2))
AREAS = (0.5, 1.0)  # of a random-resized crop, as fractions of the frame, in pre-training
ASPECTS = (3 / 4, 4 / 3)  # of a random-resized crop, relative to the aspect ratio of the clip
TRIES = 10


class CropBox(NamedTuple):
    """A rectangle of a frame, in pixels: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int


class Crop(NamedTuple):
    """The part of the frames that a clip shows.

    Attributes:
        box: the rectangle, the same in all frames.
        flipped: whether it is flipped horizontally.
    """

    box: CropBox
    flipped: bool


def multi_scale_crop_box(height: int, width: int, size: tuple[int, int], rng: np.random.Generator) -> CropBox:
    """Draw one of 10 box shapes at one of 13 positions: the published multi-scale crop.

    The base is the largest box with the aspect ratio of `size` that fits the frame; if H = W, a square of the shorter
    side. Each side of the base is scaled by 1, 0.875, 0.75 or 0.66; the two scales are equal or neighbours. A side that
    is within 2 pixels of the wanted one snaps to it, if it then fits the frame; the published code pads the frame with
    black instead. Positions are the corners, the centre, the middles of the edges and the quarter points.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        size: (H, W) of the clip, in pixels.
        rng: draws the shape, then the position.

    Returns:
        A box inside the frames.

    Raises:
        ValueError: a side is not positive.

    References:
        GroupMultiScaleCrop(224, [1, .875, .75, .66]) in datasets/transforms.py of VideoMAE V2.
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


def random_resized_crop_box(
    height: int, width: int, size: tuple[int, int], rng: np.random.Generator, areas: tuple[float, float] = AREAS
) -> CropBox:
    """Draw a box of random area, aspect ratio and position.

    The area is uniform in `areas`, as a fraction of the frame's area. The aspect ratio (width / height), relative to
    the aspect ratio of `size`, is log-uniform in [3/4, 4/3]. If none of 10 draws fits the frame, the box is the largest
    one at the centre with an allowed aspect ratio.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        size: (H, W) of the clip, in pixels.
        rng: draws area and aspect ratio until they fit, then the position.
        areas: smallest and largest area, in (0, 1]. Published fine-tuning has (0.08, 1).

    Returns:
        A box inside the frames.

    Raises:
        ValueError: a side is not positive, or `areas` are out of range.

    References:
        RandomResizedCrop of torchvision; the default areas as in Feichtenhofer et al., Masked autoencoders as
        spatiotemporal learners, NeurIPS 2022, appendix A; fine-tuning as in dataset/datasets.py of VideoMAE V2.
    """
    check_areas(areas)
    if min(height, width, *size) < 1:
        raise ValueError(f"sides must be at least 1, got frames of {height} x {width} and size {tuple(size)}")
    low, high = (aspect * size[1] / size[0] for aspect in ASPECTS)
    for _ in range(TRIES):
        area = height * width * rng.uniform(*areas)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return CropBox(int(top), int(left), box_height, box_width)
    box_height = min(height, max(1, round(width / low)))
    box_width = min(width, max(1, round(height * high)))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def check_areas(areas: tuple[float, float]) -> None:
    """Check the areas of a random-resized crop.

    Args:
        areas: smallest and largest area, as fractions of the frame.

    Raises:
        ValueError: they are out of range.
    """
    if len(areas) != 2 or not 0 < areas[0] <= areas[1] <= 1:
        raise ValueError(f"crop areas must be (smallest, largest) with 0 < smallest <= largest <= 1, got {areas}")


# By the names of the option `crop`; each is a function of (height, width, size, rng).
CROP_BOXES: dict[str, Callable[..., CropBox]] = {
    "multi-scale": multi_scale_crop_box,
    "random-resized": random_resized_crop_box,
}


def cut_clips(
    frames: torch.Tensor,
    crops: Sequence[Crop],
    size: tuple[int, int],
    resize: str = "antialias",
) -> CroppedClips:
    """Cut the clips of one video, in as few bytes as they can be made from.

    The clips hold one region of the frames that covers all boxes, and the ops resize the parts that they need. If the
    resized crops are smaller than the region (very large frames), the clips hold the crops instead, resized here and
    rounded to uint8, as the published crops are.

    Args:
        frames: uint8 (T, height, width, 3), on the CPU.
        crops: B crops, at least one.
        size: (H, W) of the clips, in pixels.
        resize: "bilinear", "antialias" or "pillow", as in `CroppedClips`.

    Returns:
        B clips, of shape (B, 3, T, H, W).

    Raises:
        ValueError: a box is not inside the frames, or `resize` is unknown.
        TypeError: `frames` are not uint8, and the crops are resized here.
        ImportError: crops are resized here by "pillow", and Pillow is missing.
    """
    boxes, flipped = [crop.box for crop in crops], [crop.flipped for crop in crops]
    if _area_around(boxes) <= len(crops) * size[0] * size[1]:
        return crop_clips([frames], [0] * len(crops), boxes, flipped, size, resize)
    whole = CropBox(0, 0, *size)
    sources = [crop_resize(frames, box, size, resize) for box in boxes]
    return crop_clips(sources, range(len(crops)), [whole] * len(crops), flipped, size, resize)


def _area_around(boxes: Sequence[CropBox]) -> int:
    height = max(box.top + box.height for box in boxes) - min(box.top for box in boxes)
    return height * (max(box.left + box.width for box in boxes) - min(box.left for box in boxes))


def crop_resize(frames: torch.Tensor, box: CropBox, size: tuple[int, int], resize: str = "antialias") -> torch.Tensor:
    """Cut a box from frames and resize it.

    Args:
        frames: uint8 (T, height, width, 3), on the CPU.
        box: the rectangle to cut.
        size: (H, W) of the result, in pixels.
        resize: "bilinear", "antialias" or "pillow", as in `CroppedClips`. "antialias" equals "pillow" within 1 of 255.

    Returns:
        uint8 (T, H, W, 3), contiguous.

    Raises:
        TypeError: `frames` are not uint8.
        ValueError: `frames` have another shape, or the box is not inside them.
        ImportError: `resize` is "pillow", and Pillow is missing.
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
    if resize == "pillow":
        image = require("PIL.Image")
        shown = (image.fromarray(frame.numpy()) for frame in cut)
        # Width first, then height, as Pillow did before 13; since then it takes the cheaper order.
        wide = (frame.resize((size[1], height), image.Resampling.BILINEAR) for frame in shown)
        done = (frame.resize(size[::-1], image.Resampling.BILINEAR) for frame in wide)
        return torch.stack([torch.from_numpy(np.array(frame)) for frame in done])
    # The permuted view is channels-last in memory, which makes interpolate two to three times as fast.
    planes = functional.interpolate(
        cut.permute(0, 3, 1, 2), size=tuple(size), mode="bilinear", antialias=resize == "antialias"
    )
    return planes.permute(0, 2, 3, 1).contiguous()
