"""Pixels of a token of a crop box, resized by separable filters: widths first, then heights. See ../resize.py."""

import triton
import triton.language as tl

from ..resize import FIXED_BITS

FIXED_SHIFT = tl.constexpr(FIXED_BITS)
FIXED_HALF = tl.constexpr(1 << FIXED_BITS - 1)
CHUNK = tl.constexpr(4)  # taps whose pixels are loaded together; a clip skips the chunks in which it has no taps


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
    channel = channel_numbers(CHANNEL_TILE, CHANNELS)[:, None]
    exists = tl.arange(0, CHANNEL_TILE)[:, None, None] < CHANNELS
    member = tl.arange(0, GROUP)[None, :, None]
    group = tl.arange(0, GROUP_TILE)[None, :, None, None]
    corner = frames + tl.load(first + OUT_HEIGHT + x, mask=inside, other=0) * CHANNELS
    no_sums = tl.zeros((CHANNEL_TILE, LANES), number)
    no_total = tl.zeros((CHANNEL_TILE, GROUP, LANES), number)
    result = tl.zeros((CHANNEL_TILE, GROUP_TILE, GROUP, LANES), tl.float32)
    for g in range((HEIGHT + GROUP - 1) // GROUP):
        begin = row + g * GROUP
        low = tl.load(first + begin)
        high = low
        for k in tl.static_range(1, GROUP):
            top = tl.load(first + tl.minimum(begin + k, row + HEIGHT - 1))  # rows beyond the token's are its last
            low, high = tl.minimum(low, top), tl.maximum(high, top)
        at, offset, total = corner + low * (width * CHANNELS), low * LINES, no_total
        for source_row in range(low, tl.minimum(high + down, height)):
            sums = no_sums
            for chunk in tl.static_range(0, TAPS, CHUNK):
                if chunk < across:
                    for j in tl.static_range(chunk, chunk + CHUNK):
                        if j < TAPS:  # pixels without weight may lie outside the source: they are not read
                            weight = tl.load(weights + (j * LINES + OUT_HEIGHT) + x, mask=inside, other=0)[None, :]
                            has_weight = (weight != 0) & (channel < CHANNELS)
                            pixel = tl.load(at[None, :] + (j * CHANNELS + channel), mask=has_weight, other=0)
                            sums += pixel.to(number) * weight
            if PILLOW:
                sums = _rounded(sums)
            for k in tl.static_range(GROUP):
                line = tl.minimum(begin + k, row + HEIGHT - 1)
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
def channel_numbers(CHANNEL_TILE: tl.constexpr, CHANNELS: tl.constexpr):
    """Channel numbers (CHANNEL_TILE,), written so that the compiler does not take them for a run of memory.

    It would hand the channels of a pixel to different threads, for accesses that are no wider, and exchange all values.
    """
    position = tl.arange(0, CHANNEL_TILE)
    channel = tl.full((CHANNEL_TILE,), CHANNELS, tl.int32)  # past the last
    for c in tl.static_range(CHANNELS):
        channel = tl.where(position == c, c, channel)
    return channel


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_SHIFT, 0), 255)
