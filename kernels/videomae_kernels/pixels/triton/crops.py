"""Kernel and launchers of ops.cropped_pixels: one program resizes the pixels of one token, and uses them at once."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, token_tile
from .clip import normalized, rows_contiguous
from .resize import resized_pixels
from .tile import channel_steps, channel_table, of_channel, row_columns


@triton.jit(do_not_specialize=["rows_per_sample"])
def _cropped_pixels_kernel(
    frames,  # flat uint8
    geometry,  # (B, 3) int64
    first,  # (B, H + W) int32
    weights,  # (B, TAPS, H + W) float32 or, for Pillow's integers, int32
    index,  # (B, K)
    pred,  # (B, K, P), row strides given, columns contiguous; loss and gradient only
    grad,  # (B, K) gradient of the row losses; gradient only
    out,  # contiguous: rows or targets (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    scale,  # (C,) float32
    shift,  # (C,) float32
    rows_per_sample,  # K
    pred_stride_b,
    pred_stride_k: tl.constexpr,  # nearly always P: see masked_patch_loss
    MODE: tl.constexpr,  # "gather", "targets", "loss" or "gradient"
    NORMALIZE: tl.constexpr,
    TAPS: tl.constexpr,
    PILLOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    GRID_W: tl.constexpr = OUT_WIDTH // WIDTH
    FRAME_TOKENS: tl.constexpr = OUT_HEIGHT // HEIGHT * GRID_W
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    column = row_columns(PARTS, LANES, VECTOR)
    inside = column < COUNT * CHANNELS
    if MODE == "gather":  # in the order of the patch embedding's weight
        channel, pixel = column // COUNT, column % COUNT
    else:
        channel, pixel = column % CHANNELS, column // CHANNELS
    frame = token // FRAME_TOKENS * FRAMES + pixel // (HEIGHT * WIDTH)
    y = token % FRAME_TOKENS // GRID_W * HEIGHT + pixel // WIDTH % HEIGHT
    x = token % GRID_W * WIDTH + pixel % WIDTH
    clip = sample.to(tl.int64)
    height, width = tl.load(geometry + clip * 3 + 1), tl.load(geometry + clip * 3 + 2)
    begin = tl.load(geometry + clip * 3) + frame.to(tl.int64) * (height * width * CHANNELS)
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    value = resized_pixels(
        frames + begin + channel,
        y,
        x,
        inside,
        first + clip * LINES,
        weights + clip * (TAPS * LINES),
        width.to(tl.int32),
        OUT_HEIGHT,
        OUT_WIDTH,
        CHANNELS,
        TAPS,
        PILLOW,
    )
    value = value * of_channel(scale, channel, CHANNELS) + of_channel(shift, channel, CHANNELS)
    in_row = row.to(tl.int64) * (COUNT * CHANNELS) + column
    if NORMALIZE:
        step, turn = channel_steps(PARTS, LANES, VECTOR, CHANNELS)
        value = normalized(tl.where(inside, value, 0.0), inside, step, turn, COUNT, CHANNELS)
    if MODE == "gather" or MODE == "targets":
        tl.store(out + in_row, value.to(out.dtype.element_ty), mask=inside)
    else:
        in_pred = sample.to(tl.int64) * pred_stride_b + (row % rows_per_sample).to(tl.int64) * pred_stride_k + column
        error = tl.where(inside, tl.load(pred + in_pred, mask=inside, other=0.0).to(tl.float32) - value, 0.0)
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
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
    out: Tensor,
) -> None:
    reject_float64(pred=pred, dtype=out)
    values = shape[1] * patch[0] * patch[1] * patch[2]
    _cropped_pixels_kernel[(index.numel(),)](
        frames,
        geometry,
        first,
        weights,
        index,
        pred,
        grad,
        out,
        channel_table(tuple(scale), frames.device),
        channel_table(tuple(shift), frames.device),
        index.shape[1],
        pred.stride(0),
        pred.stride(1),
        MODE=mode,
        NORMALIZE=normalize,
        TAPS=weights.shape[1],
        PILLOW=weights.dtype == torch.int32,
        CHANNELS=shape[1],
        OUT_HEIGHT=shape[3],
        OUT_WIDTH=shape[4],
        FRAMES=patch[0],
        HEIGHT=patch[1],
        WIDTH=patch[2],
        **token_tile(f"cropped_{mode}", values, pred),
    )


def tube_mask_gather(*arguments: Any) -> None:
    """Launch for `tube_mask_gather` of cropped clips: frames, …, shift, dtype, out."""
    out = arguments[-1]
    _launch("gather", out, out, *(*arguments[:-2], False, out))


def patch_targets(*arguments: Any) -> None:
    """Launch for `patch_targets` of cropped clips."""
    out = arguments[-1]
    _launch("targets", out, out, *arguments)


def masked_patch_loss(pred: Tensor, *arguments: Any) -> None:
    """Launch for the row losses of `masked_patch_loss` of cropped clips."""
    _launch("loss", rows_contiguous(pred), arguments[-1], *arguments)


def masked_patch_loss_backward(grad: Tensor, pred: Tensor, *arguments: Any) -> None:
    """Launch for the gradient of `pred`."""
    _launch("gradient", rows_contiguous(pred), grad, *arguments)
