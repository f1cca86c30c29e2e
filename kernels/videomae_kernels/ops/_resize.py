"""Pixels of crop boxes resized by separable filters, in plain torch on the CPU: the reference of triton/_resize.py.

Weights of an output pixel o along one axis, for a box side s, an output side S and scale = s / S:

    bilinear           two taps around max((o + ½)·scale − ½, 0)
    antialias, pillow  a triangle of half width max(scale, 1) around (o + ½)·scale, cut off at the box, with sum 1
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .cropped_clips import CroppedClips

FIXED_POINT = 2**22  # Pillow's weights are integers in this unit


def axis_weights(side: int, out: int, resize: str, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """First tap (out,) int64 and weights (out, taps) float64 of every output pixel along one axis of a box."""
    scale = side / out
    position = torch.arange(out, dtype=torch.float64)
    if resize == "bilinear":
        at = (position + 0.5).mul_(scale).sub_(0.5).clamp_(min=0)
        first = at.floor().clamp_(max=side - 1)
        second = (at - first)[:, None]
        weights = torch.cat([1 - second, second], dim=1)
        weights[first == side - 1] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    else:
        reach = max(scale, 1.0)
        centre = (position + 0.5) * scale
        first = (centre - reach + 0.5).floor().clamp_(min=0)
        last = (centre + reach + 0.5).floor().clamp_(max=side)
        tap = torch.arange(int((last - first).max()), dtype=torch.float64)
        weights = (1 - ((first[:, None] + tap - centre[:, None] + 0.5) / reach).abs()).clamp_(min=0)
        weights[tap >= (last - first)[:, None]] = 0
        weights /= weights.sum(1, keepdim=True)
    if resize == "pillow":
        weights = (weights * FIXED_POINT + 0.5).floor()
    first = first.long()
    return (first.flip(0), weights.flip(0)) if mirrored else (first, weights)


def _windows(side: int, out: int, patch: int, resize: str, mirrored: bool) -> tuple[Tensor, Tensor]:
    """For each of out/patch tokens along an axis: source positions (n, L) of its window, and weights (n, patch, L)."""
    first, weights = axis_weights(side, out, resize, mirrored)
    taps = first[:, None] + torch.arange(weights.shape[1])
    taps, weights = taps.unflatten(0, (-1, patch)), weights.unflatten(0, (-1, patch))
    start = first.unflatten(0, (-1, patch)).amin(1)
    length = int((taps.amax((1, 2)) + 1 - start).max())
    matrix = weights.new_zeros(len(start), patch, length)
    matrix.scatter_add_(2, taps - start[:, None, None], weights)
    return (start[:, None] + torch.arange(length)).clamp_(max=side - 1), matrix


def resized_pixels(clips: CroppedClips, index: Tensor, patch: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Pixels of the listed tokens, (B, K, C, τ, p, p) in [0, 255], on the CPU."""
    with torch.autocast("cpu", enabled=False):  # pixels keep their precision, as in every other op
        return torch.stack([_one_clip(clips, b, index[b], patch, dtype) for b in range(index.shape[0])])


def _one_clip(clips: CroppedClips, b: int, index: Tensor, patch: Sequence[int], dtype: torch.dtype) -> Tensor:
    first, height, width, top, left, box_height, box_width, mirrored = clips.geometry[b].tolist()
    count = clips.num_frames * height * width * clips.channels
    frames = clips.frames[first : first + count].view(clips.num_frames, height, width, clips.channels)
    grid_h, grid_w = clips.size[0] // patch[1], clips.size[1] // patch[2]
    rows, row_weights = _windows(box_height, clips.size[0], patch[1], clips.resize, False)
    columns, column_weights = _windows(box_width, clips.size[1], patch[2], clips.resize, bool(mirrored))
    t, h, w = index // (grid_h * grid_w), index // grid_w % grid_h, index % grid_w
    frame = t[:, None] * patch[0] + torch.arange(patch[0])
    window = frames[frame[:, :, None, None], (top + rows[h])[:, None, :, None], (left + columns[w])[:, None, None, :]]
    exact = torch.float64 if clips.resize == "pillow" else dtype  # sums of integers below 2⁵³
    pixels = torch.einsum("ktylc,kxl->ktyxc", window.to(exact), column_weights[w].to(exact))
    if clips.resize == "pillow":
        pixels = _round(pixels)
    pixels = torch.einsum("ktyxc,kry->kctrx", pixels, row_weights[h].to(exact))
    return (_round(pixels) if clips.resize == "pillow" else pixels).to(dtype)


def _round(pixels: Tensor) -> Tensor:
    return pixels.add_(FIXED_POINT // 2).div_(FIXED_POINT).floor_().clamp_(0, 255)
