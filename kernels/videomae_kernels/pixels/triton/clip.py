"""Kernels and launchers of ops.masked_patch_loss and ops.patch_targets.

One program handles one token, in the memory order of its predictions (channel fastest). It loads the pixels once, makes
the targets in registers and uses them: stored as they are, compared with the predictions, or turned into the gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, token_tile
from .tile import (
    channel_of,
    channel_steps,
    channel_sum,
    channel_table,
    of_channel,
    pixel_offset,
    row_columns,
    token_corner,
)

EPS = tl.constexpr(1e-6)  # added to the standard deviation, as published


@triton.jit
def normalized(value, inside, step, turn, COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    """Per channel: centred, then divided by the unbiased deviation; 0 outside."""
    channel = channel_of(step, turn, CHANNELS)
    mean = tl.zeros(value.shape, tl.float32)
    for c in tl.static_range(CHANNELS):
        mean = tl.where(channel == c, channel_sum(value, step, turn, c, CHANNELS) / COUNT, mean)
    centred = tl.where(inside, value - mean, 0.0)
    factor = tl.zeros(value.shape, tl.float32)
    for c in tl.static_range(CHANNELS):
        variance = channel_sum(centred * centred, step, turn, c, CHANNELS) / (COUNT - 1)
        factor = tl.where(channel == c, 1.0 / (tl.sqrt(variance) + EPS), factor)
    return centred * factor


@triton.jit(do_not_specialize=["rows_per_sample"])
def _patch_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    pred,  # (B, K, P), row strides given, columns contiguous; unused for targets
    grad,  # (B, K) gradient of the row losses; gradient only
    out,  # contiguous: targets (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    scale,  # (C,) float32
    shift,  # (C,) float32
    rows_per_sample,  # K
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    pred_stride_b,
    grid_h,
    grid_w,
    PRED_STRIDE_K: tl.constexpr,  # nearly always P, whose factor 8 (Triton looks for 16 alone) lets accesses be wide
    MODE: tl.constexpr,  # "targets", "loss" or "gradient"
    NORMALIZE: tl.constexpr,
    PLANAR: tl.constexpr,  # else the C values of a pixel, and the pixels of a line, are neighbours in the clip
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    corner = token_corner(token, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < COUNT * CHANNELS
    step, turn = channel_steps(PARTS, LANES, VECTOR, CHANNELS)
    channel = channel_of(step, turn, CHANNELS)
    if PLANAR:
        line, x = column // CHANNELS // WIDTH, column // CHANNELS % WIDTH
        inner = pixel_offset(channel, line, x, stride_c, stride_t, stride_h, stride_w, FRAMES, HEIGHT)
    else:  # the channels of a line's pixels are one run of memory
        line, x = column // (WIDTH * CHANNELS), column % (WIDTH * CHANNELS)
        inner = pixel_offset(line * 0, line, x, 0, stride_t, stride_h, 1, FRAMES, HEIGHT)
    pixels = tl.load(clip + corner + inner, mask=inside, other=0).to(tl.float32)
    target = pixels * of_channel(scale, channel, CHANNELS) + of_channel(shift, channel, CHANNELS)
    target = tl.where(inside, target, 0.0)
    if NORMALIZE:
        target = normalized(target, inside, step, turn, COUNT, CHANNELS)
    in_row = row.to(tl.int64) * (COUNT * CHANNELS) + column
    if MODE == "targets":
        tl.store(out + in_row, target, mask=inside)
    else:
        in_pred = sample.to(tl.int64) * pred_stride_b + (row % rows_per_sample).to(tl.int64) * PRED_STRIDE_K + column
        error = tl.load(pred + in_pred, mask=inside, other=0.0).to(tl.float32) - target
        if MODE == "loss":
            total = tl.sum(tl.sum(tl.sum(error * error, axis=2), axis=0), axis=0)
            tl.store(out + row, total / (COUNT * CHANNELS))
        else:
            factor = tl.load(grad + row).to(tl.float32) * (2.0 / (COUNT * CHANNELS))
            tl.store(out + in_row, (error * factor).to(out.dtype.element_ty), mask=inside)


def _launch(
    mode: str,
    pred: Tensor,
    grad: Tensor,
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
    out: Tensor,
) -> None:
    reject_float64(pred=pred, clip=clip)
    _, channels, _, height, width = clip.shape
    planar = not (clip.stride(1) == 1 and clip.stride(4) == channels)
    _patch_kernel[(index.numel(),)](
        clip,
        index,
        pred,
        grad,
        out,
        channel_table(tuple(scale), clip.device),
        channel_table(tuple(shift), clip.device),
        index.shape[1],
        *clip.stride(),
        pred.stride(0),
        height // patch[1],
        width // patch[2],
        PRED_STRIDE_K=pred.stride(1),
        MODE=mode,
        NORMALIZE=normalize,
        PLANAR=planar,
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        **token_tile(f"{mode}_reordered" if planar else mode, pred.shape[2], pred),
    )


def rows_contiguous(pred: Tensor) -> Tensor:
    return pred if pred.stride(-1) == 1 else pred.contiguous()


def patch_targets(*target_and_out: Any) -> None:
    """Launch for `ops.patch_targets`: clip, index, patch, scale, shift, normalize, out."""
    out = target_and_out[-1]
    _launch("targets", out, out, *target_and_out)


def masked_patch_loss(pred: Tensor, *target_and_out: Any) -> None:
    """Launch for the row losses of `ops.masked_patch_loss`."""
    _launch("loss", rows_contiguous(pred), target_and_out[-1], *target_and_out)


def masked_patch_loss_backward(grad: Tensor, pred: Tensor, *target_and_out: Any) -> None:
    """Launch for the gradient of `pred`."""
    _launch("gradient", rows_contiguous(pred), grad, *target_and_out)


@triton.jit(do_not_specialize=["rows_per_sample"])
def _tube_mask_gather_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    rows,  # (B, K, C·τ·p·p) contiguous
    scale,  # (C,) float32
    shift,  # (C,) float32
    rows_per_sample,  # K
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    grid_h,  # H / p
    grid_w,  # W / p
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,  # τ
    HEIGHT: tl.constexpr,  # p
    WIDTH: tl.constexpr,  # p
    TO_CLIP: tl.constexpr,  # write rows into the clip (backward) instead of reading the clip into rows
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    corner = token_corner(token, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < COUNT * CHANNELS
    channel, line, x = column // COUNT, column // WIDTH, column % WIDTH
    in_clip = clip + corner + pixel_offset(channel, line, x, stride_c, stride_t, stride_h, stride_w, FRAMES, HEIGHT)
    in_row = rows + row.to(tl.int64) * (COUNT * CHANNELS) + column
    factor = of_channel(scale, channel, CHANNELS)
    if TO_CLIP:
        value = tl.load(in_row, mask=inside, other=0.0).to(tl.float32) * factor
        tl.store(in_clip, value.to(clip.dtype.element_ty), mask=inside)
    else:
        value = tl.load(in_clip, mask=inside, other=0).to(tl.float32) * factor + of_channel(shift, channel, CHANNELS)
        tl.store(in_row, value.to(rows.dtype.element_ty), mask=inside)


def _launch_gather(
    clip: Tensor,
    index: Tensor,
    rows: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    to_clip: bool,
) -> None:
    _, channels, _, height, width = clip.shape
    kernel = "gather_backward" if to_clip else "gather"
    _tube_mask_gather_kernel[(index.numel(),)](
        clip,
        index,
        rows,
        channel_table(tuple(scale), clip.device),
        channel_table(tuple(shift), clip.device),
        index.shape[1],
        *clip.stride(),
        height // patch[1],
        width // patch[2],
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        TO_CLIP=to_clip,
        **token_tile(kernel if clip.stride(4) == 1 else f"{kernel}_reordered", rows.shape[2], rows),
    )


def tube_mask_gather(
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    """Launch for `ops.tube_mask_gather`."""
    reject_float64(clip=clip, dtype=out)
    _launch_gather(clip, index, out, patch, scale, shift, to_clip=False)


def tube_mask_gather_backward(
    grad: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shape: Sequence[int],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    """Launch for the gradient of the clip: zero, except at the listed tokens."""
    reject_float64(grad=grad, clip=out)
    _launch_gather(out.zero_(), index, grad, patch, scale, [0.0] * shape[1], to_clip=True)
