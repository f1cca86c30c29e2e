"""Separable resizing of crop boxes: which source lines make each line of a clip, and with which weights.

Weights of an output line o along one axis, for a box side s, an output side S and scale = s / S:

    bilinear           two taps around max((o + ½)·scale − ½, 0)
    antialias, pillow  a triangle of half width max(scale, 1) around (o + ½)·scale, cut off at the box, with sum 1

`axis_taps` makes them; `resized_pixels`, here and in triton/resize.py, sums the listed pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

FIXED_BITS = 22  # Pillow's weights are integers in units of 2⁻²²
FIXED_POINT = 1 << FIXED_BITS


@lru_cache(maxsize=2048)
def axis_taps(side: int, out: int, resize: str) -> tuple[Tensor, Tensor]:
    """First tap (out,) int32 and weights (taps, out) of every line of a clip, int32 as in `CroppedClips.weights`."""
    scale = side / out
    position = torch.arange(out, dtype=torch.float64)
    if resize == "bilinear":
        at = (position + 0.5).mul_(scale).sub_(0.5).clamp_(min=0)
        first = at.floor().clamp_(max=side - 1)
        second = (at - first).masked_fill_(first == side - 1, 0)
        weights = torch.stack([1 - second, second])
    else:
        reach = max(scale, 1.0)
        centre = (position + 0.5) * scale
        first = (centre - reach + 0.5).floor().clamp_(min=0)
        last = (centre + reach + 0.5).floor().clamp_(max=side)
        tap = torch.arange(int((last - first).max()), dtype=torch.float64)[:, None]
        weights = (1 - ((first + tap - centre + 0.5) / reach).abs()).clamp_(min=0)
        weights[tap >= last - first] = 0
        weights /= weights.sum(0)
    if resize == "pillow":
        return first.int(), (weights * FIXED_POINT + 0.5).floor().int()
    return first.int(), weights.float().view(torch.int32)


def tap_bucket(taps: int) -> int:
    """The number of taps that a batch's weights are padded to: 2, 3, 4, 6, 8, 12, 16, 24, …

    A kernel is compiled for each bucket, not for each number of taps: for clips of 224, videos of up to 2,160 lines
    need 1 to 20 taps, which are eight buckets. Powers of two and their halves keep the padding below one half of the
    weights. Work is not padded to a bucket: kernels skip groups of taps that a clip does not have.
    """
    taps = max(taps, 2)
    power = 1 << (taps - 1).bit_length()
    return power * 3 // 4 if taps <= power * 3 // 4 else power


def resized_pixels(
    clip: Sequence[Tensor],  # `CroppedClips.tensors`
    shape: Sequence[int],  # of the clips, (B, C, T, H, W)
    index: Tensor,  # (B, K)
    patch: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Pixels of the listed tokens, (B, K, C, τ, p, p) in [0, 255], on the CPU."""
    frames, geometry, first, weights = clip
    with torch.autocast("cpu", enabled=False):  # pixels keep their precision, as in every other op
        sources = (source_frames(frames, row, shape) for row in geometry.tolist())
        of_each_clip = zip(sources, first, weights, index, strict=True)
        return torch.stack([_one_clip(*one, shape, patch, dtype) for one in of_each_clip])


def source_frames(frames: Tensor, row: Sequence[int], shape: Sequence[int]) -> Tensor:
    """(T, height, width, C) view of a clip's source."""
    begin, *sides = row[:3]
    size = [shape[2], *sides, shape[1]]
    return frames[begin : begin + size[0] * size[1] * size[2] * size[3]].view(size)


def _one_clip(
    source: Tensor,
    first: Tensor,
    weights: Tensor,
    index: Tensor,
    shape: Sequence[int],
    patch: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    pillow = not weights.is_floating_point()
    exact = torch.float64 if pillow else dtype  # which holds sums of Pillow's integers, below 2⁵³
    sides, split = source.shape[1:3], (shape[3], shape[4])
    axes = zip(first.split(split), weights.to(exact).split(split, dim=1), sides, patch[1:], strict=True)
    (rows, row_weights), (columns, column_weights) = (_windows(*axis) for axis in axes)
    grid_h, grid_w = len(rows), len(columns)
    t, h, w = index // (grid_h * grid_w), index // grid_w % grid_h, index % grid_w
    frame = t[:, None] * patch[0] + torch.arange(patch[0])
    window = source[frame[:, :, None, None], rows[h][:, None, :, None], columns[w][:, None, None, :]]
    pixels = torch.einsum("ktylc,kxl->ktyxc", window.to(exact), column_weights[w])
    if pillow:
        pixels = _round(pixels)
    pixels = torch.einsum("ktyxc,kry->kctrx", pixels, row_weights[h])
    return (_round(pixels) if pillow else pixels).to(dtype)


def _windows(first: Tensor, weights: Tensor, side: int, patch: int) -> tuple[Tensor, Tensor]:
    """For each token along an axis: the source lines (n, L) it is made of, and their weights (n, patch, L)."""
    taps = (first.long() + torch.arange(len(weights))[:, None]).T.unflatten(0, (-1, patch))
    start = taps.amin((1, 2))
    taps -= start[:, None, None]
    weights = weights.T.unflatten(0, (-1, patch))
    length = int((taps * (weights != 0)).max()) + 1
    matrix = weights.new_zeros(len(start), patch, length)
    matrix.scatter_add_(2, taps.clamp_(max=length - 1), weights)
    return (start[:, None] + torch.arange(length)).clamp_(max=side - 1), matrix


def _round(pixels: Tensor) -> Tensor:
    return pixels.add_(FIXED_POINT // 2).div_(FIXED_POINT).floor_().clamp_(0, 255)
