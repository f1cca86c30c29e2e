"""What the pixel kernels share: where a token's pixels lie, and per-channel constants on the device."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

# A row's tile is (PARTS, LANES, VECTOR), VECTOR fastest in memory. Neighbouring threads should take neighbouring lanes,
# never different parts: what the compiler knows of a thread's elements (their channel, whether they lie inside) then
# costs nothing at run time. Of two dimensions that are not contiguous, Triton spreads threads over the later one since
# 3.7 and over the earlier one before, so there the tile is (LANES, PARTS, VECTOR). Results do not depend on it.
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
    """(step, turn) of a tile's columns where the channel is fastest: channel = (step + turn) % CHANNELS.

    `step` is known when the kernel is compiled, `turn` (LANES,) depends on the thread alone: see `channel_sum`.
    """
    step = _along_parts(tl.arange(0, PARTS)) * (LANES * VECTOR) + tl.arange(0, VECTOR)[None, None, :]
    return step % CHANNELS, tl.arange(0, LANES) * VECTOR % CHANNELS


@triton.jit
def channel_of(step, turn, CHANNELS: tl.constexpr):
    """Channel of each column of a tile."""
    return (step + _along_lanes(turn)) % CHANNELS


@triton.jit
def channel_sum(tile, step, turn, channel, CHANNELS: tl.constexpr):
    """Sum of a tile over the columns of one channel; each element is added once, whatever the number of channels.

    Columns of equal step share a channel within a thread, so they are summed first and given to their channel then.
    """
    total = tl.zeros(turn.shape, tl.float32)
    for s in tl.static_range(CHANNELS):
        of_step = tl.sum(tl.sum(tl.where(step == s, tile, 0.0), axis=2), axis=PART_AXIS)
        total += tl.where((turn + s) % CHANNELS == channel, of_step, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _along_parts(values):
    return values[:, None, None] if PART_AXIS == 0 else values[None, :, None]


@triton.jit
def _along_lanes(values):
    return values[None, :, None] if PART_AXIS == 0 else values[:, None, None]


@triton.jit
def of_channel(table, channel, CHANNELS: tl.constexpr):
    """table[channel], by CHANNELS scalar loads and selections that the compiler mostly resolves."""
    value = tl.zeros(channel.shape, tl.float32)
    for c in tl.static_range(CHANNELS):
        value = tl.where(channel == c, tl.load(table + c), value)
    return value


@lru_cache(maxsize=64)
def channel_table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Per-channel constants on the device, uploaded once so that no step waits for a copy."""
    return torch.tensor(values, dtype=torch.float32, device=device)
