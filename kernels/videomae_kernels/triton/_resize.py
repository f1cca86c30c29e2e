"""Pixels of a crop box resized by separable filters, made where they are wanted: see ops/_resize.py.

Weights are ratios of integers, so that they are exact to rounding whatever the size of the frames: with
at = (2·o + 1)·side in units of half an output pixel, the triangle of tap j is (reach − |…|) / Σ.
"""

import triton
import triton.language as tl

FIXED_BITS = tl.constexpr(22)  # of Pillow's integer weights
HALF_BITS = tl.constexpr(11)
FIXED_HALF = tl.constexpr(1 << 21)


@triton.jit
def _first_tap(o, side, out, reach, RESIZE: tl.constexpr):
    """First source position along an axis for output position `o`, in a box of `side` resized to `out`."""
    if RESIZE == "bilinear":
        return tl.minimum(tl.maximum((2 * o + 1) * side - out, 0) // (2 * out), side - 1)
    return tl.maximum((2 * o + 1) * side - reach + out, 0) // (2 * out)


@triton.jit
def _numerator(j, first, o, side, out, reach, RESIZE: tl.constexpr):
    """Weight of tap `j`, before division by the sum over all taps."""
    if RESIZE == "bilinear":
        rest = tl.minimum(tl.maximum((2 * o + 1) * side - out, 0) - 2 * out * first, 2 * out)
        weight = tl.where(j == 0, 2 * out - rest, rest)
    else:
        weight = tl.maximum(reach - tl.abs(2 * out * (first + j) + out - (2 * o + 1) * side), 0)
    return tl.where(first + j < side, weight, 0)


@triton.jit
def _sum_of_numerators(first, o, side, out, reach, taps, RESIZE: tl.constexpr):
    total = tl.zeros(o.shape, tl.int32)
    for j in range(0, taps):
        total += _numerator(j, first, o, side, out, reach, RESIZE)
    return total


@triton.jit
def _weight(numerator, total, RESIZE: tl.constexpr):
    if RESIZE == "pillow":  # in fixed point, rounded; by long division in two halves, which 32 bits can hold
        total = tl.maximum(total, 1).to(tl.uint32)
        upper = numerator.to(tl.uint32) << HALF_BITS
        lower = upper % total << HALF_BITS
        weight = ((upper // total << HALF_BITS) + lower // total + (lower % total * 2 >= total)).to(tl.int32)
    else:
        weight = numerator.to(tl.float32) / total.to(tl.float32)
    return weight


@triton.jit
def _rounded(value):
    """A fixed-point sum as a uint8 value, in int32."""
    return tl.minimum(tl.maximum((value + FIXED_HALF) >> FIXED_BITS, 0), 255)


@triton.jit
def resized_pixels(
    plane,  # pointers to the first pixel of each element's frame, in its channel
    y,  # output row of each element
    x,  # output column of each element, before mirroring
    inside,  # which elements exist
    geometry,  # pointer to the clip's row of geometry
    out_height: tl.constexpr,
    out_width: tl.constexpr,
    CHANNELS: tl.constexpr,
    RESIZE: tl.constexpr,
):
    """Float32 values in [0, 255] of the output pixels (y, x) of a clip."""
    width = tl.load(geometry + 2).to(tl.int32)
    top, left = tl.load(geometry + 3).to(tl.int32), tl.load(geometry + 4).to(tl.int32)
    side_y, side_x = tl.load(geometry + 5).to(tl.int32), tl.load(geometry + 6).to(tl.int32)
    x = tl.where(tl.load(geometry + 7) != 0, out_width - 1 - x, x)
    reach_y, reach_x = 2 * tl.maximum(side_y, out_height), 2 * tl.maximum(side_x, out_width)
    if RESIZE == "bilinear":
        taps_y, taps_x = 2, 2
    else:
        taps_y, taps_x = reach_y // out_height + 1, reach_x // out_width + 1
    first_y = _first_tap(y, side_y, out_height, reach_y, RESIZE)
    first_x = _first_tap(x, side_x, out_width, reach_x, RESIZE)
    total_y = _sum_of_numerators(first_y, y, side_y, out_height, reach_y, taps_y, RESIZE)
    total_x = _sum_of_numerators(first_x, x, side_x, out_width, reach_x, taps_x, RESIZE)
    dtype: tl.constexpr = tl.int32 if RESIZE == "pillow" else tl.float32
    value = tl.zeros(y.shape, dtype)
    for i in range(0, taps_y):
        weight_y = _weight(_numerator(i, first_y, y, side_y, out_height, reach_y, RESIZE), total_y, RESIZE)
        line = plane + ((top + first_y + i) * width + left) * CHANNELS
        sum_x = tl.zeros(y.shape, dtype)
        for j in range(0, taps_x):
            weight_x = _weight(_numerator(j, first_x, x, side_x, out_width, reach_x, RESIZE), total_x, RESIZE)
            present = inside & (first_y + i < side_y) & (first_x + j < side_x)
            pixel = tl.load(line + (first_x + j) * CHANNELS, mask=present, other=0)
            sum_x += pixel.to(dtype) * weight_x
        if RESIZE == "pillow":
            sum_x = _rounded(sum_x)
        value += sum_x * weight_y
    if RESIZE == "pillow":
        value = _rounded(value)
    return value.to(tl.float32)
