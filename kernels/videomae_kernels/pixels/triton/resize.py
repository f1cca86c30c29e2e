"""Pixels of a crop box resized by separable filters, made where they are wanted: see ../resize.py."""

import triton
import triton.language as tl

from ..resize import FIXED_BITS

FIXED_SHIFT = tl.constexpr(FIXED_BITS)
FIXED_HALF = tl.constexpr(1 << FIXED_BITS - 1)
UNROLLED = tl.constexpr(4)  # taps along an axis up to which the sum is written out


@triton.jit
def resized_pixels(
    frame,  # pointers to the first pixel of each element's frame, in its channel
    y,  # row of each element in its clip
    x,  # column
    inside,  # which elements exist
    first,  # pointer to the first taps of the clip's lines
    weights,  # pointer to the weights of the clip's lines
    width,  # of the source
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    PILLOW: tl.constexpr,
):
    """Float32 values in [0, 255] of the pixels (y, x) of a clip."""
    top = tl.load(first + y, mask=inside, other=0)
    left = tl.load(first + OUT_HEIGHT + x, mask=inside, other=0)
    corner = frame + (top * width + left) * CHANNELS
    weight_y, weight_x = weights + y, weights + OUT_HEIGHT + x
    value = tl.zeros(y.shape, tl.int32 if PILLOW else tl.float32)
    if TAPS <= UNROLLED:
        for i in tl.static_range(TAPS):
            value += _row(corner, weight_y, weight_x, i, inside, width, OUT_HEIGHT + OUT_WIDTH, CHANNELS, TAPS, PILLOW)
    else:
        for i in range(TAPS):
            value += _row(corner, weight_y, weight_x, i, inside, width, OUT_HEIGHT + OUT_WIDTH, CHANNELS, TAPS, PILLOW)
    return (_rounded(value) if PILLOW else value).to(tl.float32)


@triton.jit
def _row(
    corner,
    weight_y,
    weight_x,
    i,  # tap along y
    inside,
    width,
    LINES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    PILLOW: tl.constexpr,
):
    """What the source row of tap `i` adds. Pixels without weight may lie outside the source: they are not read."""
    of_row = tl.load(weight_y + i * LINES, mask=inside, other=0)
    value = tl.zeros(of_row.shape, of_row.dtype)
    for j in tl.static_range(TAPS):
        of_column = tl.load(weight_x + j * LINES, mask=inside, other=0)
        present = (of_row != 0) & (of_column != 0)
        pixel = tl.load(corner + (i * width + j) * CHANNELS, mask=present, other=0)
        value += pixel.to(of_row.dtype) * of_column
    return (_rounded(value) if PILLOW else value) * of_row


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_SHIFT, 0), 255)
