"""warp_clips: rotation, shear, translation, crop, resize and flip of decoded frames in one resampling."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import FLOAT32, check_count, check_tensor, describe
from .._custom_op import define_op
from .._values import check_sources
from .crops import GEOMETRY, CroppedClips
from .resize import source_frames

# The reference copies this many pixel values as floats at a time, of whole frames, so that they stay in a cache.
TABLE_NUMBERS = 1 << 18


def _reference(frames: Tensor, geometry: Tensor, matrix: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    out = _allocate(frames, geometry, matrix, shape, fill)
    for row, of_clip, clip in zip(geometry.tolist(), matrix, out, strict=True):
        _warp_one(source_frames(frames, row, shape), of_clip, fill, clip)
    return out


def _allocate(frames: Tensor, geometry: Tensor, matrix: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    return matrix.new_empty(shape)


def _launch(frames: Tensor, geometry: Tensor, matrix: Tensor, shape: Sequence[int], fill: int, out: Tensor) -> None:
    from .triton.warp import launch_warp

    launch_warp(frames, geometry, matrix, fill, out)


def _check(frames: Tensor, geometry: Tensor, matrix: Tensor, shape: Sequence[int], fill: int) -> None:
    check_sources(frames, geometry, shape)
    finite = matrix.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        clip = int(finite.int().argmin())
        raise ValueError(f"matrix must be finite, but that of clip {clip} is {matrix[clip].tolist()}")


def _warp_one(source: Tensor, matrix: Tensor, fill: int, out: Tensor) -> None:
    """Of source frames (T, h, w, C) and a matrix (2, 3), write a clip (C, T, H, W).

    The four taps of an output pixel are the same in every frame and channel. So one weighted sum of table rows serves
    them all: a row holds a source pixel's values in all channels of some frames. Rows of `fill` follow the last pixel:
    for points outside, and for taps of weight zero beyond the last line and column.
    """
    channels, num_frames, *size = out.shape
    inside, first, second = _points(matrix, size, source.shape[1:3])
    low, high = first.flatten(1).aminmax(dim=1)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    window = source[:, top : bottom + 2, left : right + 2].permute(1, 2, 3, 0)  # slices end with the source
    height, width = window.shape[:2]
    pixels = height * width
    rows = torch.where(inside, (first[1] - top) * width + (first[0] - left), pixels)
    rows = rows.view(-1, 1) + torch.tensor([0, 1, width, width + 1], dtype=torch.int32)
    weights = torch.stack([1 - second, second])
    weights = (weights[:, None, 1] * weights[:, 0]).view(4, -1).T.contiguous()
    at_once = min(num_frames, max(1, TABLE_NUMBERS // (pixels * channels)))
    numbers = out.new_empty(at_once * channels * (pixels + width + 2))  # once: fresh memory is slow
    for begin in range(0, num_frames, at_once):
        part = window[..., begin : begin + at_once]
        table = numbers[: part.shape[3] * channels * (pixels + width + 2)].view(pixels + width + 2, -1)
        table[:pixels].view(part.shape).copy_(part)
        table[pixels:] = fill
        sums = torch.nn.functional.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        written = out[:, begin : begin + at_once].view(channels, part.shape[3], -1)
        written.copy_(sums.view(-1, channels, part.shape[3]).permute(1, 2, 0))


def _points(matrix: Tensor, size: Sequence[int], sides: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """For every output pixel: whether its point lies in the source (H, W), the column and row (2, H, W) of its first
    tap, int32, and the weights (2, H, W) of its last, 0 outside.

    A point beyond the outermost centres takes their pixels alone, so that it is moved there.
    """
    y, x = (torch.arange(0.5, side, dtype=matrix.dtype) for side in size)
    along_x, along_y, begin = matrix[:, :, None, None].unbind(1)
    points = along_x * x + (along_y * y[:, None] + begin)
    ends = torch.tensor([[[sides[1]]], [[sides[0]]]], dtype=matrix.dtype)
    inside = ((points >= 0) & (points < ends)).all(0)
    points.nan_to_num_(0)  # infinities of opposite signs, which are outside
    points = torch.minimum(points.sub_(0.5).clamp_(min=0), ends - 1)
    first = points.floor()
    return inside, first.int(), points.sub_(first).mul_(inside)


_op = define_op("warp_clips", _reference, _allocate, _launch, _check)


def warp_clips(clips: CroppedClips, matrix: Tensor, fill: int = 128) -> Tensor:
    """Clips sampled from their source frames at affine positions: geometric augmentation, crop, resize, flip at once.

        (u, v) = matrix[b] @ (x + ½, y + ½, 1)
        out[b, c, t, y, x] = Σ_ij w_ij · source[t, clamp(⌊v − ½⌋ + i), clamp(⌊u − ½⌋ + j), c],   i, j ∈ {0, 1}

    with the bilinear weights w of the point (u − ½, v − ½), if (u, v) lies in [0, w) × [0, h), the rectangle of the
    source of w × h pixels; else out = `fill` in every channel. A pixel covers a unit square, so pixel (x, y) has its
    centre at (x + ½, y + ½), in the clip as in the source. The matrix says everything: box, flip and `resize` of the
    clips do not count, nor does a shrinking matrix blur. Not differentiable: a backward pass raises
    NotImplementedError.

    The source is what `crop_clips` kept of it: the smallest rectangle around its boxes, with (0, 0) its corner. Cut
    boxes of whole frames where a rotation has to bring in pixels from outside a box. `crop_matrix` is the matrix of
    crop, resize and flip. An operation that comes before the crop, given as a 3 × 3 matrix A from positions in its
    result to positions in the source, is composed as (A @ M)[:, :2], where M is `crop_matrix` with a third row
    (0, 0, 1).

    Args:
        clips: B clips of size (H, W).
        matrix: (B, 2, 3) float32, x before y, on the device of the clips.
        fill: value of output pixels whose point lies outside the source, 0 to 255.

    Returns:
        (B, C, T, H, W) float32 in [0, 255], not rounded. Arithmetic is float32, so that a coordinate is off by some
        10⁻⁷ of the source's side, and a point as close to the edge of the source may count as either.

    Raises:
        TypeError: `clips` are no `CroppedClips`, `matrix` is not float32, or `fill` is no integer.
        ValueError: `clips` are of `every` n-th frame, `matrix` has another shape or device, or is not finite (see `check_indices`), `fill` is out of
            range, or a source does not lie in the frames (see `check_indices`).

    References:
        Pillow's `Image.transform(size, AFFINE, matrix, BILINEAR, fillcolor)` without its rounding to uint8.
        `rotate`, `shear_x`, `translate_x_rel` of VideoMAE V2, dataset/rand_augment.py (OpenGVLab/VideoMAEv2), which
        resample once each, before the crop does again.
    """
    _check_clips(clips)
    if clips.step != 1:  # the rows below a frame would count as inside
        raise ValueError(f"clips must have a step of 1, got {clips.step}: take `every` frame after warp_clips")
    check_tensor(matrix, "matrix", FLOAT32, (clips.shape[0], 2, 3), clips.frames)
    fill = check_count(fill, "fill", 0, 255)
    return _op(clips.frames.contiguous(), clips.geometry.contiguous(), matrix.contiguous(), list(clips.shape), fill)


def crop_matrix(clips: CroppedClips) -> Tensor:
    """The matrix of each clip's own box and flip, for `warp_clips`.

        u = left + (x + ½)·width / W,  or flipped:  u = left + width − (x + ½)·width / W
        v = top + (y + ½)·height / H

    `warp_clips(clips, crop_matrix(clips))` is the clip that `resize="bilinear"` makes, to rounding, but where a box is
    enlarged and does not reach the edge of its source: there the resize sees the box alone, and `warp_clips` also the
    pixels beside it.

    Args:
        clips: B clips, of any `resize`.

    Returns:
        (B, 2, 3) float32 on the device of the clips, without a host sync.

    Raises:
        TypeError: `clips` are no `CroppedClips`.
    """
    _check_clips(clips)
    top, left, height, width, flipped = clips.geometry[:, GEOMETRY.index("top") :].float().unbind(1)
    across = width / clips.size[1]
    nothing = torch.zeros_like(top)
    rows: list[Any] = [
        [torch.where(flipped > 0, -across, across), nothing, torch.where(flipped > 0, left + width, left)],
        [nothing, height / clips.size[0], top],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _check_clips(clips: CroppedClips) -> None:
    if not isinstance(clips, CroppedClips):
        raise TypeError(f"clips must be CroppedClips, got {describe(clips)}")
