"""Kernels and launchers of ops.masked_patch_loss and ops.patch_targets.

One program handles a few tokens. Per channel it loads their pixels, makes the targets in registers and uses them:
stored as they are, compared with the predictions, or turned into the gradient.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._pixels import channel_table, token_corner
from ._tiling import reject_float64

EPS = tl.constexpr(1e-6)  # added to the standard deviation, as published

TARGETS, LOSS, GRADIENT = 0, 1, 2
ROWS_PER_PROGRAM = {TARGETS: 2, LOSS: 4, GRADIENT: 4}  # tokens; chosen to spill no register, speed not measured


@triton.jit
def _channel_targets(pixels, inside, scale, shift, COUNT: tl.constexpr, NORMALIZE: tl.constexpr):
    """Targets of one channel, from raw pixels (rows, pixels of a token)."""
    value = pixels.to(tl.float32) * scale + shift
    if NORMALIZE:
        mean = tl.sum(tl.where(inside, value, 0.0), axis=1) / COUNT
        centred = tl.where(inside, value - mean[:, None], 0.0)
        deviation = tl.sqrt(tl.sum(centred * centred, axis=1) / (COUNT - 1))
        value = centred / (deviation + EPS)[:, None]
    return value


@triton.jit(do_not_specialize=["num_rows", "rows_per_sample"])
def _patch_kernel(
    clip,  # (B, C, T, H, W), any strides
    index,  # (B, K)
    pred,  # (B, K, P), row strides given, columns contiguous; unused for TARGETS
    grad,  # (B, K) gradient of the row losses; GRADIENT only
    out,  # contiguous: targets (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    scale,  # (C,) float32
    shift,  # (C,) float32
    num_rows,  # B · K
    rows_per_sample,  # K
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    pred_stride_b,
    pred_stride_k,
    grid_h,
    grid_w,
    MODE: tl.constexpr,  # TARGETS, LOSS or GRADIENT
    NORMALIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    in_rows = row < num_rows
    token = tl.load(index + row, mask=in_rows, other=0).to(tl.int32)
    sample = row // rows_per_sample
    corner = token_corner(token, sample, grid_h, grid_w, stride_b, stride_t, stride_h, stride_w, FRAMES, HEIGHT, WIDTH)
    pixel = tl.arange(0, BLOCK_PIXELS)
    frame, y, x = pixel // (HEIGHT * WIDTH), pixel // WIDTH % HEIGHT, pixel % WIDTH
    inner = frame * stride_t + y * stride_h + x * stride_w  # int32: two frames never span 2³¹ elements
    inside = in_rows[:, None] & (pixel < COUNT)[None, :]
    pred_row = sample.to(tl.int64) * pred_stride_b + (row % rows_per_sample).to(tl.int64) * pred_stride_k
    out_row = row[:, None].to(tl.int64) * (COUNT * CHANNELS)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    for channel in tl.static_range(CHANNELS):
        at = clip + corner[:, None] + inner[None, :] + channel * stride_c
        pixels = tl.load(at, mask=inside, other=0)
        target = _channel_targets(pixels, inside, tl.load(scale + channel), tl.load(shift + channel), COUNT, NORMALIZE)
        column = (pixel * CHANNELS + channel)[None, :]
        if MODE == 0:
            tl.store(out + out_row + column, target, mask=inside)
        else:
            predicted = tl.load(pred + pred_row[:, None] + column, mask=inside, other=0.0).to(tl.float32)
            error = tl.where(inside, predicted - target, 0.0)
            if MODE == 1:
                total += tl.sum(error * error, axis=1)
            else:
                factor = tl.load(grad + row, mask=in_rows, other=0.0).to(tl.float32) * (2.0 / (COUNT * CHANNELS))
                value = (error * factor[:, None]).to(out.dtype.element_ty)
                tl.store(out + out_row + column, value, mask=inside)
    if MODE == 1:
        tl.store(out + row, total / (COUNT * CHANNELS), mask=in_rows)


def _launch(
    mode: int,
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
    rows = ROWS_PER_PROGRAM[mode]
    _patch_kernel[(triton.cdiv(index.numel(), rows),)](
        clip,
        index,
        pred,
        grad,
        out,
        channel_table(tuple(scale), clip.device),
        channel_table(tuple(shift), clip.device),
        index.numel(),
        index.shape[1],
        *clip.stride(),
        pred.stride(0),
        pred.stride(1),
        height // patch[1],
        width // patch[2],
        MODE=mode,
        NORMALIZE=normalize,
        CHANNELS=channels,
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        BLOCK_ROWS=rows,
        BLOCK_PIXELS=triton.next_power_of_2(patch[0] * patch[1] * patch[2]),
        num_warps=4,
    )


def _rows_contiguous(pred: Tensor) -> Tensor:
    return pred if pred.stride(-1) == 1 else pred.contiguous()


def patch_targets(*target_and_out: Any) -> None:
    """Launch for `ops.patch_targets`: clip, index, patch, scale, shift, normalize, out."""
    out = target_and_out[-1]
    _launch(TARGETS, out, out, *target_and_out)


def masked_patch_loss(pred: Tensor, *target_and_out: Any) -> None:
    """Launch for the row losses of `ops.masked_patch_loss`."""
    _launch(LOSS, _rows_contiguous(pred), target_and_out[-1], *target_and_out)


def masked_patch_loss_backward(grad: Tensor, pred: Tensor, *target_and_out: Any) -> None:
    """Launch for the gradient of `pred`."""
    _launch(GRADIENT, _rows_contiguous(pred), grad, *target_and_out)
