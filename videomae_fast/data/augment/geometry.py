"""Rotations, shears and translations as matrices, composed with crop, resize and flip into one resampling.

Coordinates are those of pixel edges, x first: pixel (x, y) covers [x, x + 1) × [y, y + 1), its centre is
(x + ½, y + ½). A matrix maps where a pixel goes to where it comes from, as Pillow's do.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videomae_kernels import CroppedClips, crop_clips

from ..crops import Crop, CropBox, crop_resize
from .policy import GEOMETRIC, RandAugmentDraw

_MARGIN = 1  # pixels that bilinear taps reach beyond a point, rounded up
MOST_AREA = 2  # a region of more than this times H·W pixels is shrunk before it leaves the worker


def op_matrix(op: str, value: float, height: int, width: int) -> np.ndarray:
    """Matrix of one geometric op on whole frames.

    Args:
        op: one of GEOMETRIC.
        value: as `op_value` returns it.
        height: of the frames, in pixels.
        width: of the frames, in pixels.

    Returns:
        (3, 3) float64; it maps a point of the new frame to the old one.

    References:
        Pillow's `Image.rotate` and `Image.transform(AFFINE)`; shear and translation as in dataset/rand_augment.py of
        VideoMAE V2.
    """
    matrix = np.eye(3)
    if op == "rotate":
        cosine, sine = math.cos(math.radians(value)), math.sin(math.radians(value))
        center = np.array([width / 2, height / 2])
        matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
        matrix[:2, 2] = center - matrix[:2, :2] @ center
    elif op == "shear_x":
        matrix[0, 1] = value
    elif op == "shear_y":
        matrix[1, 0] = value
    elif op == "translate_x":
        matrix[0, 2] = value * width
    else:
        matrix[1, 2] = value * height
    return matrix


def clip_matrix(crop: Crop, draw: RandAugmentDraw, frame: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Matrix of a clip: it maps a point of the clip to the decoded frame.

        M = A_1 · … · A_n · crop,   A_i the geometric ops of the draw in their order

    Args:
        crop: box and flip.
        draw: ops; those that are not geometric are left out.
        frame: (height, width) of the decoded frames, in pixels.
        size: (H, W) of the clip, in pixels.

    Returns:
        (3, 3) float64.
    """
    top, left, height, width = crop.box
    across, begin = (-width / size[1], left + width) if crop.flipped else (width / size[1], left)
    matrix = np.array([[across, 0, begin], [0, height / size[0], top], [0, 0, 1]])
    for op, value in reversed(draw):
        if op in GEOMETRIC:
            matrix = op_matrix(op, value, *frame) @ matrix
    return matrix


def warped_clips(
    frames: Tensor,
    crops: Sequence[Crop],
    draws: Sequence[RandAugmentDraw],
    size: tuple[int, int],
    resize: str = "bilinear",
) -> tuple[CroppedClips, Tensor]:
    """Cut what the clips of one video show, and say how `warp_clips` resamples it once for geometry, crop and flip.

    Each clip gets the region of the frames that it can reach, so its `CroppedClips` are not the clip itself: without
    its matrix it is this region. A region of more than 2·H·W pixels (large frames) is resized here to the resolution
    of the clip.

    A pixel of the clip that comes from outside of the frames is filled. The published code fills after every op, so
    there a part that one op moves out is lost, though the next op moves it back; here it is not.

    Args:
        frames: uint8 (T, height, width, 3), on the CPU.
        crops: R crops.
        draws: of each crop.
        size: (H, W) of the clips, in pixels.
        resize: how a large region is resized: "bilinear", "antialias" or "pillow".

    Returns:
        The R regions, and (R, 2, 3) float32: matrix @ (x + ½, y + ½, 1) is the point of the region that pixel (x, y)
        of the clip shows.

    Raises:
        ValueError: there are not as many draws as crops, or a box is not inside the frames.
        TypeError: `frames` are not uint8.
    """
    if len(draws) != len(crops):
        raise ValueError(f"draws must have one draw for each of {len(crops)} crops, got {len(draws)}")
    _, full_height, full_width, _ = frames.shape
    frame = full_height, full_width
    regions, matrices = [], []
    for crop, draw in zip(crops, draws, strict=True):
        top, left, height, width = crop.box
        if not (0 <= top <= full_height - height and 0 <= left <= full_width - width and min(height, width) >= 1):
            raise ValueError(f"{crop.box} does not lie in frames of {full_height} x {full_width}")
        matrix = clip_matrix(crop, draw, frame, size)
        moved = any(op in GEOMETRIC for op, _ in draw)
        window = _window(matrix, frame, size) if moved else crop.box
        region, scale = _cut(frames, window, crop.box, size, resize)
        to_region = np.array([[scale[1], 0, -window.left * scale[1]], [0, scale[0], -window.top * scale[0]]])
        regions.append(region)
        matrices.append(to_region @ matrix)
    boxes = [CropBox(0, 0, region.shape[1], region.shape[2]) for region in regions]
    clips = crop_clips(regions, range(len(regions)), boxes, [False] * len(regions), size, resize)
    return clips, torch.from_numpy(np.stack([matrix[:2] for matrix in matrices])).float()


def _window(matrix: np.ndarray, frame: tuple[int, int], size: tuple[int, int]) -> CropBox:
    """The smallest box of the frame that has all taps of a clip; one pixel, which it does not reach, if none is."""
    (height, width), (rows, columns) = frame, size
    corners = (matrix @ np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]]))[:2]
    first = np.maximum(np.floor(corners.min(axis=1)).astype(int) - _MARGIN, 0)
    last = np.minimum(np.ceil(corners.max(axis=1)).astype(int) + _MARGIN, (width, height))
    if (last <= first).any():
        return CropBox(0, 0, 1, 1)
    (left, top), (right, bottom) = first.tolist(), last.tolist()
    return CropBox(top, left, bottom - top, right - left)


def _cut(
    frames: Tensor, window: CropBox, box: CropBox, size: tuple[int, int], resize: str
) -> tuple[Tensor, tuple[float, float]]:
    """The pixels of a window, shrunk by as much as the crop is if it is large, and (rows, columns) they shrank by."""
    if window.height * window.width <= MOST_AREA * size[0] * size[1]:
        return frames.narrow(1, window.top, window.height).narrow(2, window.left, window.width), (1, 1)
    shrink = min(1.0, size[0] / box.height), min(1.0, size[1] / box.width)
    sides = max(1, round(window.height * shrink[0])), max(1, round(window.width * shrink[1]))
    return crop_resize(frames, window, sides, resize), (sides[0] / window.height, sides[1] / window.width)
