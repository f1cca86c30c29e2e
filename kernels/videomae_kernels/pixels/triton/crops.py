"""Kernel and launcher of the pixel ops on crops: one program resizes the pixels of one token and uses them at once."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import crop_tile, reject_float64
from ..crops import GEOMETRY
from .resize import channel_numbers, resized_token
from .tile import TARGET_EPS, channel_arguments, of_channel, use_row

GEOMETRY_COLUMNS = tl.constexpr(len(GEOMETRY))


@triton.jit(do_not_specialize=["rows_per_sample"])
def _cropped_pixels_kernel(
    frames,  # flat uint8
    geometry,  # (B, 10) int64
    first,  # (B, H + W) int32
    weights,  # (B, TAPS, H + W) float32 or, for Pillow's integers, int32
    index,  # (B, K)
    pred,  # (B, K, P), row strides given, columns contiguous; loss and gradient only
    grad,  # (B, K) gradient of the row losses; gradient only
    out,  # contiguous: rows or targets (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    more_channels,  # see `channel_arguments`
    scale0,
    scale1,
    scale2,
    scale3,
    shift0,
    shift1,
    shift2,
    shift3,
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
    CHANNEL_TILE: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    COUNT: tl.constexpr = FRAMES * HEIGHT * WIDTH
    GRID_W: tl.constexpr = OUT_WIDTH // WIDTH
    FRAME_TOKENS: tl.constexpr = OUT_HEIGHT // HEIGHT * GRID_W
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    row = tl.program_id(0)  # int32: see _tiling
    token = tl.load(index + row).to(tl.int32)
    lane = tl.arange(0, LANES)
    t, x, is_pixel = lane // WIDTH, lane % WIDTH, lane < FRAMES * WIDTH
    clip = (row // rows_per_sample).to(tl.int64)
    of_clip = geometry + clip * GEOMETRY_COLUMNS
    height, width = tl.load(of_clip + 1), tl.load(of_clip + 2)
    frame = (token // FRAME_TOKENS * FRAMES + t).to(tl.int64)
    value = resized_token(
        frames + tl.load(of_clip) + frame * (height * width * CHANNELS),
        height.to(tl.int32),
        width.to(tl.int32),
        tl.load(of_clip + 3).to(tl.int32),
        tl.load(of_clip + 4).to(tl.int32),
        first + clip * LINES,
        weights + clip * (TAPS * LINES),
        token % FRAME_TOKENS // GRID_W * HEIGHT,
        token % GRID_W * WIDTH + x,
        is_pixel,
        OUT_HEIGHT,
        OUT_WIDTH,
        HEIGHT,
        CHANNELS,
        TAPS,
        PILLOW,
        CHANNEL_TILE,
        GROUP_TILE,
        GROUP,
        LANES,
    )
    channel = channel_numbers(CHANNEL_TILE, CHANNELS)[:, None, None, None]
    y = tl.arange(0, GROUP_TILE)[None, :, None, None] * GROUP + tl.arange(0, GROUP)[None, None, :, None]
    inside = (channel < CHANNELS) & (y < HEIGHT) & is_pixel[None, None, None, :]
    pixel = (t * (HEIGHT * WIDTH) + x)[None, None, None, :] + y * WIDTH
    factor = of_channel(channel, CHANNELS, more_channels, scale0, scale1, scale2, scale3, 0)
    term = of_channel(channel, CHANNELS, more_channels, shift0, shift1, shift2, shift3, CHANNELS)
    value = tl.where(inside, value * factor + term, 0.0)
    if NORMALIZE:
        centred = tl.where(inside, value - _of_each_channel(value) / COUNT, 0.0)
        variance = _of_each_channel(centred * centred) / (COUNT - 1)
        value = centred * (1.0 / (tl.sqrt(variance) + TARGET_EPS))
    use_row(
        value,
        inside,
        channel * COUNT + pixel if MODE == "gather" else pixel * CHANNELS + channel,
        row,
        rows_per_sample,
        pred,
        pred_stride_b,
        PRED_STRIDE_K,
        grad,
        out,
        MODE,
        COUNT * CHANNELS,
    )


@triton.jit
def _of_each_channel(tile):
    """The sum of each channel's pixels, (CHANNEL_TILE, 1, 1, 1)."""
    return tl.sum(tl.sum(tl.sum(tile, axis=1), axis=1), axis=1)[:, None, None, None]


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
        *channel_arguments(scale, shift, out),
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
        **crop_tile(shape[1], patch[0], patch[1], patch[2], out.device),
    )
