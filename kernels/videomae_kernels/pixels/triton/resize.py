"""Pixels of a token of a crop box, resized by separable filters: widths first, then heights. See ../resize.py."""

import triton
import triton.language as tl

from ..resize import FIXED_BITS

FIXED_SHIFT = tl.constexpr(FIXED_BITS)
FIXED_HALF = tl.constexpr(1 << FIXED_BITS - 1)
CHUNK = tl.constexpr(4)  # taps whose pixels are loaded together; a clip skips the chunks that it has no taps in
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
    PILLOW: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Float32 values in [0, 255], (CHANNEL_TILE, GROUPS, GROUP, LANES): a token's rows in groups, columns as lanes.

    A lane owns a column, so that the second pass needs nothing of another lane. The rows of a group share what the
    first pass makes of the source rows that any of them takes; source rows of two groups are read twice.
    """
    LINES: tl.constexpr = OUT_HEIGHT + OUT_WIDTH
    number = weights.dtype.element_ty
    channel = tl.arange(0, CHANNEL_TILE)[:, None, None]
    member = tl.arange(0, GROUP)[None, :, None]
    group = tl.arange(0, GROUPS)[None, :, None, None]
    exists = channel < CHANNELS
    corner = frames + tl.load(first + OUT_HEIGHT + x, mask=inside, other=0) * CHANNELS
    of_columns = _column_weights(weights + OUT_HEIGHT + x, inside, LINES, TAPS, LANES)
    result = tl.zeros((CHANNEL_TILE, GROUPS, GROUP, LANES), tl.float32)
    for g in range(GROUPS):
        low = tl.load(first + _line(row, g, 0, GROUP, HEIGHT))
        high = low
        for k in tl.static_range(1, GROUP):
            top = tl.load(first + _line(row, g, k, GROUP, HEIGHT))
            low, high = tl.minimum(low, top), tl.maximum(high, top)
        total = tl.zeros((CHANNEL_TILE, GROUP, LANES), number)
        at, offset = corner + low * (width * CHANNELS), low * LINES
        for source_row in range(low, tl.minimum(high + down, height)):
            sums = _row_sums(
                at,
                of_columns,
                weights + OUT_HEIGHT + x,
                inside,
                across,
                LINES,
                CHANNELS,
                TAPS,
                CHANNEL_TILE,
                LANES,
            )
            if PILLOW:
                sums = _rounded(sums)
            for k in tl.static_range(GROUP):
                line = _line(row, g, k, GROUP, HEIGHT)
                top = tl.load(first + line)
                has_tap = (source_row - top).to(tl.uint32) < tl.full((), down, tl.uint32)
                of_row = tl.load(weights + line - top * LINES + offset, mask=has_tap, other=0)
                total = tl.where(exists & (member == k), total + (sums * of_row)[:, None, :], total)
            at += width * CHANNELS
            offset += LINES
        if PILLOW:
            total = _rounded(total)
        result = tl.where(exists[:, None] & (group == g), total.to(tl.float32)[:, None, :, :], result)
    return result


@triton.jit
def _line(row, g, k, GROUP: tl.constexpr, HEIGHT: tl.constexpr):
    """Row `k` of group `g`, in the clip; beyond the token's rows, its last."""
    return row + tl.minimum(g * GROUP + k, HEIGHT - 1)


@triton.jit
def _column_weights(of_column, inside, LINES: tl.constexpr, TAPS: tl.constexpr, LANES: tl.constexpr):
    """Bits of the weights of each lane's column, (TAPS or more, LANES); nothing where there are too many to keep."""
    TILE: tl.constexpr = triton.next_power_of_2(TAPS) if TAPS <= KEPT else 1
    tap = tl.arange(0, TILE)[:, None]
    bits = tl.zeros((TILE, LANES), tl.int32)
    if TAPS <= KEPT:
        for j in tl.static_range(TAPS):
            weight = tl.load(of_column + j * LINES, mask=inside, other=0)
            bits = tl.where(tap == j, weight.to(tl.int32, bitcast=True)[None, :], bits)
    return bits


@triton.jit
def _row_sums(
    at,  # (LANES,) pointers to the pixels of the first taps
    of_columns,
    of_column,
    inside,
    across,
    LINES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNEL_TILE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Weighted sums of a source row's pixels, (CHANNEL_TILE, LANES). Pixels without weight are not read."""
    number = of_column.dtype.element_ty
    channel = tl.arange(0, CHANNEL_TILE)[:, None]
    tap = tl.arange(0, of_columns.shape[0])[:, None]
    sums = tl.zeros((CHANNEL_TILE, LANES), number)
    for begin in tl.static_range(0, TAPS, CHUNK):
        if begin < across:
            for j in tl.static_range(begin, min(begin + CHUNK, TAPS)):
                if TAPS <= KEPT:  # the sum has one term, and integers let the compiler see it
                    bits = tl.sum(tl.where(tap == j, of_columns, 0), axis=0)
                    weight = bits.to(number, bitcast=True)
                else:
                    weight = tl.load(of_column + j * LINES, mask=inside, other=0)
                for c in tl.static_range(CHANNELS):
                    pixel = tl.load(at + (j * CHANNELS + c), mask=weight != 0, other=0)
                    sums = tl.where(channel == c, sums + (pixel.to(number) * weight)[None, :], sums)
    return sums


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_SHIFT, 0), 255)
