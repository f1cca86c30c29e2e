"""What the pixel kernels share: where a token's pixels lie, a row's tile, its normalisation and its use."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import EPS

TARGET_EPS = tl.constexpr(EPS)
SCALARS = 4  # channels whose values are scalar arguments of a kernel
# A row's tile is (PARTS, LANES, VECTOR), VECTOR fastest in memory. Neighbouring threads should take neighbouring lanes,
# never different parts: what the compiler knows of a thread's elements (their channel, whether they lie inside) then
# costs nothing at run time. When two dimensions are not contiguous, Triton >= 3.7 spreads threads over the last, older
# versions over the first; for those the tile is (LANES, PARTS, VECTOR). Results do not depend on it.
PART_AXIS = tl.constexpr(0 if tuple(int(n) for n in triton.__version__.split(".")[:2]) >= (3, 7) else 1)


@triton.jit
def token_corner(
    token,  # token number, int32
    sample,  # its sample, int32
    grid_h,
    grid_w,
    stride_b,
    stride_t,
    stride_h,
    stride_w,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Offset of the first pixel of channel 0 of a token; int64, since clips pass 2³¹ elements."""
    t = (token // (grid_h * grid_w)).to(tl.int64)
    h = (token // grid_w % grid_h).to(tl.int64)
    w = (token % grid_w).to(tl.int64)
    return sample.to(tl.int64) * stride_b + t * FRAMES * stride_t + h * HEIGHT * stride_h + w * WIDTH * stride_w


@triton.jit
def pixel_offset(
    channel,
    line,  # frame·HEIGHT + y, where frame counts modulo FRAMES
    x,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
):
    """Offset of a pixel from its token's corner; int32 only within one frame of one channel."""
    frame, y = line // HEIGHT % FRAMES, line % HEIGHT
    return channel.to(tl.int64) * stride_c + frame.to(tl.int64) * stride_t + (y * stride_h + x * stride_w)


@triton.jit
def row_columns(PARTS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr):
    """Column numbers of a row's tile in memory order: a thread owns a VECTOR of every part."""
    lane = _along_lanes(tl.arange(0, LANES))
    return (_along_parts(tl.arange(0, PARTS)) * LANES + lane) * VECTOR + tl.arange(0, VECTOR)[None, None, :]


@triton.jit
def channel_steps(PARTS: tl.constexpr, LANES: tl.constexpr, VECTOR: tl.constexpr, CHANNELS: tl.constexpr):
    """(step, lane_offset) of a tile's columns where the channel is fastest: channel = (step + lane_offset) % CHANNELS.

    `step` is known when the kernel is compiled, `lane_offset` (LANES,) depends on the thread alone: see `channel_sum`.
    """
    step = _along_parts(tl.arange(0, PARTS)) * (LANES * VECTOR) + tl.arange(0, VECTOR)[None, None, :]
    return step % CHANNELS, tl.arange(0, LANES) * VECTOR % CHANNELS


@triton.jit
def channel_of(step, lane_offset, CHANNELS: tl.constexpr):
    """Channel of each column of a tile."""
    return (step + _along_lanes(lane_offset)) % CHANNELS


@triton.jit
def channel_sum(tile, step, lane_offset, channel, CHANNELS: tl.constexpr):
    """Sum of a tile over the columns of one channel; each element is added once, whatever the number of channels.

    Columns of equal step share a channel within a thread, so they are summed first and given to their channel then.
    """
    total = tl.zeros(lane_offset.shape, tl.float32)
    for s in tl.static_range(CHANNELS):
        of_step = tl.sum(tl.sum(tl.where(step == s, tile, 0.0), axis=2), axis=PART_AXIS)
        total += tl.where((lane_offset + s) % CHANNELS == channel, of_step, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def normalized(value, inside, step, lane_offset, COUNT: tl.constexpr, CHANNELS: tl.constexpr):
    """Per channel: centred, then divided by the unbiased deviation; 0 outside, where `value` must be 0."""
    channel = channel_of(step, lane_offset, CHANNELS)
    mean = tl.zeros(value.shape, tl.float32)
    for c in tl.static_range(CHANNELS):
        mean = tl.where(channel == c, channel_sum(value, step, lane_offset, c, CHANNELS) / COUNT, mean)
    centred = tl.where(inside, value - mean, 0.0)
    factor = tl.zeros(value.shape, tl.float32)
    for c in tl.static_range(CHANNELS):
        variance = channel_sum(centred * centred, step, lane_offset, c, CHANNELS) / (COUNT - 1)
        factor = tl.where(channel == c, 1.0 / (tl.sqrt(variance) + TARGET_EPS), factor)
    return centred * factor


@triton.jit
def use_row(
    value,  # a row's tile: pixels of the embedding, or targets; 0 outside, except for "gather"
    inside,
    column,
    row,  # number of the row in index
    rows_per_sample,  # K
    pred,  # (B, K, P), columns contiguous; "loss" and "gradient" only
    pred_stride_b,
    PRED_STRIDE_K: tl.constexpr,
    grad,  # (B, K) gradient of the row losses; "gradient" only
    out,  # contiguous: rows (B, K, P), row losses (B, K) or gradient of pred (B, K, P)
    MODE: tl.constexpr,  # "gather", "targets", "loss" or "gradient"
    VALUES: tl.constexpr,  # P
):
    """The end of every pixel kernel: store a row as it is, compare it with predictions, or make their gradient."""
    in_row = row.to(tl.int64) * VALUES + column
    if MODE == "gather" or MODE == "targets":
        tl.store(out + in_row, value.to(out.dtype.element_ty), mask=inside)
    else:
        sample = row // rows_per_sample
        in_pred = sample.to(tl.int64) * pred_stride_b + (row % rows_per_sample).to(tl.int64) * PRED_STRIDE_K + column
        error = tl.load(pred + in_pred, mask=inside, other=0.0).to(tl.float32) - value
        if MODE == "loss":
            tl.store(out + row, tl.sum(error * error) / VALUES)
        else:
            factor = tl.load(grad + row).to(tl.float32) * (2.0 / VALUES)
            tl.store(out + in_row, (error * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _along_parts(values):
    return values[:, None, None] if PART_AXIS == 0 else values[None, :, None]


@triton.jit
def _along_lanes(values):
    return values[None, :, None] if PART_AXIS == 0 else values[:, None, None]


@triton.jit
def of_channel(channel, CHANNELS: tl.constexpr, more_channels, value0, value1, value2, value3, begin):
    """The value of each element's channel, by selections that the compiler mostly resolves; see `channel_arguments`."""
    value = tl.zeros(channel.shape, tl.float32)
    if CHANNELS <= 4:
        value = tl.where(channel == 0, value0, value)
        value = tl.where(channel == 1, value1, value)
        value = tl.where(channel == 2, value2, value)
        value = tl.where(channel == 3, value3, value)
    else:
        for c in tl.static_range(CHANNELS):
            value = tl.where(channel == c, tl.load(more_channels + begin + c), value)
    return value


def channel_arguments(scale: Sequence[float], shift: Sequence[float], like: Tensor) -> tuple[Any, ...]:
    """(more_channels, scale0 … scale3, shift0 … shift3) for a kernel; none is an upload, none is kept.

    Up to four channels are scalar arguments, so that no value makes a kernel compile anew and a CUDA graph can be
    captured. Tuples would serve any number, but Triton 3.2 has none. More channels are a table that fills make on the
    device, each of which has its value as an argument; else the pointer is not looked at.
    """
    values = [*scale, *shift]
    if len(scale) <= SCALARS:
        filled = [0.0] * (SCALARS - len(scale))
        return like, *scale, *filled, *shift, *filled
    table = torch.empty(len(values), dtype=torch.float32, device=like.device)
    for number, value in zip(table, values, strict=True):
        number.fill_(value)
    return table, *[0.0] * (2 * SCALARS)
