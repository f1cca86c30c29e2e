"""Kernel and launcher of the pixel ops on crops: one program resizes the pixels of one token and uses them at once."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, token_tile
from .resize import resized_pixels
from .tile import channel_steps, channel_table, normalized, of_channel, row_columns, use_row

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
    if NORMALIZE:
        step, lane_offset = channel_steps(PARTS, LANES, VECTOR, CHANNELS)
        value = normalized(tl.where(inside, value, 0.0), inside, step, lane_offset, COUNT, CHANNELS)
    use_row(
        value,
        inside,
        column,
        row,
        rows_per_sample,
        pred,
        pred_stride_b,
        PRED_STRIDE_K,
        grad,
        out,
        MODE,
        COUNT * CHANNELS,
        ZERO_OUTSIDE=False,  # masking the resized value instead would spill
    )


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
        **token_tile(TILES_OF_MODE[mode], shape[1] * patch[0] * patch[1] * patch[2], pred),
    )
