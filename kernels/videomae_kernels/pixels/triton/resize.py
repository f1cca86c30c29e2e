"""Pixels of a token of a crop box, resized by separable filters: width first, then height. See ../resize.py."""

import triton
import triton.language as tl

from ..resize import FIXED_BITS

FIXED_SHIFT = tl.constexpr(FIXED_BITS)
FIXED_HALF = tl.constexpr(1 << FIXED_BITS - 1)


@triton.jit
def resized_token(
    frames,  # pointers (LANES,) to the first pixel of each lane's frame
    width,  # of the source, int32
    height,
    first,  # pointer to the first taps of the clip's lines
    weights,  # pointer to the weights of the clip's lines
    row,  # of the clip, where the token begins
    x,  # (LANES,) columns of the clip
    inside,  # (LANES,) which lanes exist
    taps,  # of the clip
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    HEIGHT: tl.constexpr,  # p
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
    PILLOW: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Float32 values in [0, 255], (CHANNEL_TILE, GROUPS, GROUP, LANES): rows of a token down, columns across."""
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    number = tl.int32 if PILLOW else tl.float32
    channel = tl.arange(0, CHANNEL_TILE)[:, None]
    channel3 = tl.arange(0, CHANNEL_TILE)[:, None, None]
    member = tl.arange(0, GROUP)[None, :, None]
    group4 = tl.arange(0, GROUPS)[None, :, None, None]
    left = tl.load(first + OUT_HEIGHT + x, mask=inside, other=0)
    corner = frames + left * CHANNELS
    weight_x = weights + OUT_HEIGHT + x
    result = tl.zeros((CHANNEL_TILE, GROUPS, GROUP, LANES), tl.float32)
    for g in range(GROUPS):
        y = row + g * GROUP
        low = tl.load(first + y)
        high = low
        for k in tl.static_range(1, GROUP):
            top = tl.load(first + tl.minimum(y + k, row + HEIGHT - 1))
            low, high = tl.minimum(low, top), tl.maximum(high, top)
        high = tl.minimum(high + taps, height)
        total = tl.zeros((CHANNEL_TILE, GROUP, LANES), number)
        line = corner + (low * width) * CHANNELS
        for r in range(low, high):
            sums = tl.zeros((CHANNEL_TILE, LANES), number)
            at, of_tap = line, weight_x
            for _ in range(taps):
                of_column = tl.load(of_tap, mask=inside, other=0)
                present = of_column != 0
                for c in tl.static_range(CHANNELS):
                    pixel = tl.load(at + c, mask=present).to(number)
                    sums = tl.where(channel == c, sums + (pixel * of_column)[None, :], sums)
                at += CHANNELS
                of_tap += LINES
            line += width * CHANNELS
            if PILLOW:
                sums = _rounded(sums)
            for k in tl.static_range(GROUP):
                line_k = tl.minimum(y + k, row + HEIGHT - 1)
                i = r - tl.load(first + line_k)
                of_row = tl.load(weights + line_k + i * LINES, mask=i.to(tl.uint32) < taps.to(tl.uint32), other=0)
                total = tl.where(member == k, total + (sums * of_row)[:, None, :], total)
        if PILLOW:
            total = _rounded(total)
        result = tl.where(group4 == g, total.to(tl.float32)[:, None, :, :], result)
    return result


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_SHIFT, 0), 255)
