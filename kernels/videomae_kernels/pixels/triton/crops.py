"""Kernel and launcher of the pixel ops on crops: one program resizes the pixels of one token and uses them at once."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, token_tile
from .resize import resized_token
from .tile import TARGET_EPS, channel_table, of_channel

TILES_OF_MODE = {  # entries of TOKEN_TILES
    "gather": "cropped_gather",
    "targets": "cropped_targets",
    "loss": "cropped_loss",
    "gradient": "cropped_gradient",
}


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
    PRED_STRIDE_K: tl.constexpr,  # nearly always P: see _patch_kernel
    MODE: tl.constexpr,  # "gather", "targets", "loss" or "gradient"
    NORMALIZE: tl.constexpr,
    PILLOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    TAPS: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    GRID_W: tl.constexpr = OUT_WIDTH // WIDTH
    FRAME_TOKENS: tl.constexpr = OUT_HEIGHT // HEIGHT * GRID_W
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    sample = row // rows_per_sample
    token = tl.load(index + row).to(tl.int32)
    lane = tl.arange(0, LANES)
    inside = lane < FRAMES * WIDTH
    t, x = lane // WIDTH, lane % WIDTH
    clip = sample.to(tl.int64)
    height, width = tl.load(geometry + clip * 3 + 1), tl.load(geometry + clip * 3 + 2)
    frame = (token // FRAME_TOKENS * FRAMES + t).to(tl.int64)
    begin = tl.load(geometry + clip * 3) + frame * (height * width * CHANNELS)
    value = resized_token(
        frames + begin,
        height.to(tl.int32),
        width.to(tl.int32),
        TAPS,
        TAPS,
        first + clip * LINES,
        weights + clip * (TAPS * LINES),
        token % FRAME_TOKENS // GRID_W * HEIGHT,
        token % GRID_W * WIDTH + x,
        inside,
        OUT_HEIGHT,
        OUT_WIDTH,
        HEIGHT,
        CHANNELS,
        TAPS,
        PILLOW,
        CHANNEL_TILE,
        GROUPS,
        GROUP,
        LANES,
    )
    channel = tl.arange(0, CHANNEL_TILE)[:, None, None, None]
    y = (tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :])[None, :, :, None]
    t4, x4, in4 = t[None, None, None, :], x[None, None, None, :], inside[None, None, None, :]
    here = (channel < CHANNELS) & (y < HEIGHT) & in4
    value = value * of_channel(scale, channel, CHANNELS) + of_channel(shift, channel, CHANNELS)
    if NORMALIZE:
        value = tl.where(here, value, 0.0)
        mean = tl.sum(tl.sum(tl.sum(value, axis=1), axis=1), axis=1) / COUNT
        centred = tl.where(here, value - mean[:, None, None, None], 0.0)
        variance = tl.sum(tl.sum(tl.sum(centred * centred, axis=1), axis=1), axis=1) / (COUNT - 1)
        value = centred * (1.0 / (tl.sqrt(variance) + TARGET_EPS))[:, None, None, None]
    if MODE == "gather":
        column = channel * COUNT + t4 * (HEIGHT * WIDTH) + y * WIDTH + x4
    else:
        column = (t4 * (HEIGHT * WIDTH) + y * WIDTH + x4) * CHANNELS + _number(channel, CHANNELS)
    VALUES: tl.constexpr = COUNT * CHANNELS
    in_row = row.to(tl.int64) * VALUES + column
    if MODE == "gather" or MODE == "targets":
        tl.store(out + in_row, value.to(out.dtype.element_ty), mask=here)
    else:
        sample = row // rows_per_sample
        in_pred = sample.to(tl.int64) * pred_stride_b + (row % rows_per_sample).to(tl.int64) * PRED_STRIDE_K + column
        error = tl.where(here, tl.load(pred + in_pred, mask=here, other=0.0).to(tl.float32) - value, 0.0)
        if MODE == "loss":
            total = tl.sum(tl.sum(tl.sum(tl.sum(error * error, axis=0), axis=0), axis=0), axis=0)
            tl.store(out + row, total / VALUES)
        else:
            factor = tl.load(grad + row).to(tl.float32) * (2.0 / VALUES)
            tl.store(out + in_row, (error * factor).to(out.dtype.element_ty), mask=here)


@triton.jit
def _number(channel, CHANNELS: tl.constexpr):
    number = tl.zeros(channel.shape, tl.int32)
    for c in tl.static_range(1, CHANNELS):
        number = tl.where(channel == c, c, number)
    return number


def launch(
    mode: str,
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
    pred: Tensor,
    grad: Tensor,
    out: Tensor,
) -> None:
    """See `triton.launch`."""
    frames, geometry, first, weights = clip
    reject_float64(pred=pred, dtype=out)
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
        PRED_STRIDE_K=pred.stride(1),
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
        **tile(shape[1], patch),
    )


import os
def tile(channels, patch):
    lanes = triton.next_power_of_2(patch[0] * patch[2])
    group = int(os.environ.get("GROUP", 4))
    return {"CHANNEL_TILE": triton.next_power_of_2(channels), "GROUP": group, "GROUPS": triton.next_power_of_2(triton.cdiv(patch[1], group)), "LANES": lanes, "num_warps": max(1, lanes // 32)}
