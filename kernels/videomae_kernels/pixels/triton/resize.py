"""Pixels of a token of a crop box, resized by separable filters: widths first, then heights. See ../resize.py."""

import triton
import triton.language as tl

from ..resize import FIXED_BITS

FIXED_SHIFT = tl.constexpr(FIXED_BITS)
FIXED_HALF = tl.constexpr(1 << FIXED_BITS - 1)
CHUNK = tl.constexpr(4)  # taps whose pixels are loaded together; a clip skips the chunks in which it has no taps
KEPT = tl.constexpr(16)  # up to this many taps, a lane keeps the weights of its column in registers


@triton.jit
def resized_token(
    frames,  # (LANES,) pointers to the first pixel of each lane's frame
    height,  # of the source
    width,
    down,  # taps of the clip's rows
    across,  # taps of the clip's columns
    first,  # pointer to the first taps of the clip's lines
    weights,  # pointer to the weights of the clip's lines
    row,  # the token's first row in the clip
    x,  # (LANES,) columns of the clip
    inside,  # (LANES,) which lanes exist
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,  # p
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,  # at least `down` and `across`
    TAP_TILE: tl.constexpr,
    PILLOW: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Float32 values in [0, 255], (CHANNEL_TILE, GROUP_TILE, GROUP, LANES): a token's rows in groups of GROUP.

    A lane owns a column, so that the second pass needs nothing of another lane. The rows of a group share what the
    first pass makes of the source rows that any of them takes; where groups overlap, it is made twice.
    """
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    number = weights.dtype.element_ty
    channel = tl.arange(0, CHANNEL_TILE)[:, None, None]
    member = tl.arange(0, GROUP)[None, :, None]
    group = tl.arange(0, GROUP_TILE)[None, :, None, None]
    exists = channel < CHANNELS
    corner = frames + tl.load(first + OUT_HEIGHT + x, mask=inside, other=0) * CHANNELS
    of_column = weights + OUT_HEIGHT + x
    kept = _column_weights(of_column, inside, LINES, TAPS, TAP_TILE, LANES)
    result = tl.zeros((CHANNEL_TILE, GROUP_TILE, GROUP, LANES), tl.float32)
    for g in range((HEIGHT + GROUP - 1) // GROUP):
        low = tl.load(first + _line(row, g, 0, GROUP, HEIGHT))
        high = low
        for k in tl.static_range(1, GROUP):
            top = tl.load(first + _line(row, g, k, GROUP, HEIGHT))
            low, high = tl.minimum(low, top), tl.maximum(high, top)
        total = tl.zeros((CHANNEL_TILE, GROUP, LANES), number)
        at, offset = corner + low * (width * CHANNELS), low * LINES
        for source_row in range(low, tl.minimum(high + down, height)):
            sums = _row_sums(at, kept, of_column, inside, across, LINES, CHANNELS, TAPS, TAP_TILE, CHANNEL_TILE, LANES)
            if PILLOW:
                sums = _rounded(sums)
            for k in tl.static_range(GROUP):
                line = _line(row, g, k, GROUP, HEIGHT)
                top = tl.load(first + line)
                has_tap = (source_row - top).to(tl.uint32) < down.to(tl.uint32)
                weight = tl.load(weights + line - top * LINES + offset, mask=has_tap, other=0)
                total = tl.where(exists & (member == k), total + (sums * weight)[:, None, :], total)
            at += width * CHANNELS
            offset += LINES
        if PILLOW:
            total = _rounded(total)
        result = tl.where(exists[:, None] & (group == g), total.to(tl.float32)[:, None, :, :], result)
    return result


@triton.jit
def _line(row, g, k, GROUP: tl.constexpr, HEIGHT: tl.constexpr):
    """Row `k` of group `g` as a row of the clip; beyond the token's rows, its last."""
    return row + tl.minimum(g * GROUP + k, HEIGHT - 1)


@triton.jit
def _column_weights(
    of_column, inside, LINES: tl.constexpr, TAPS: tl.constexpr, TAP_TILE: tl.constexpr, LANES: tl.constexpr
):
    """Bits of the weights of each lane's column, (TAP_TILE, LANES); zeros where there are too many to keep."""
    tap = tl.arange(0, TAP_TILE)[:, None]
    bits = tl.zeros((TAP_TILE, LANES), tl.int32)
    if TAPS <= KEPT:
        for j in tl.static_range(TAPS):
            weight = tl.load(of_column + j * LINES, mask=inside, other=0)
            bits = tl.where(tap == j, weight.to(tl.int32, bitcast=True)[None, :], bits)
    return bits


@triton.jit
def _row_sums(
    at,  # (LANES,) pointers to the pixels of the first taps
    kept,  # bits of the weights of each lane's column
    of_column,  # (LANES,) pointers to these weights
    inside,
    across,
    LINES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    TAP_TILE: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Weighted sums of a source row's pixels, (CHANNEL_TILE, LANES). Pixels without weight are not read."""
    number = of_column.dtype.element_ty
    exists = tl.arange(0, CHANNEL_TILE)[:, None] < CHANNELS
    channel = channel_numbers(CHANNEL_TILE, CHANNELS)[:, None]
    tap = tl.arange(0, TAP_TILE)[:, None]
    sums = tl.zeros((CHANNEL_TILE, LANES), number)
    for chunk in tl.static_range(0, TAPS, CHUNK):
        if chunk < across:
            for j in tl.static_range(chunk, chunk + CHUNK):
                if j < TAPS:
                    if TAPS <= KEPT:  # this sum has one term, which the compiler finds because it is of integers
                        weight = tl.sum(tl.where(tap == j, kept, 0), axis=0).to(number, bitcast=True)
                    else:
                        weight = tl.load(of_column + j * LINES, mask=inside, other=0)
                    pixel = tl.load(
                        at[None, :] + (j * CHANNELS + channel), mask=(weight != 0)[None, :] & exists, other=0
                    )
                    sums += pixel.to(number) * weight[None, :]
    return sums


@triton.jit
def channel_numbers(CHANNEL_TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """Channel numbers (CHANNEL_TILE,), written so that the compiler does not take them for a run of memory.

    It would hand the channels of a pixel to different threads, for accesses that are no wider, and exchange all values.
    """
    position = tl.arange(0, CHANNEL_TILE)
    channel = tl.zeros((CHANNEL_TILE,), tl.int32)
    for c in tl.static_range(1, CHANNELS):
        channel = tl.where(position == c, c, channel)
    return channel


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_SHIFT, 0), 255)
