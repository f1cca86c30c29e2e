"""Numbers of PTX in numpy: types, and rounding that is exact where numpy alone would round twice.

A register is an array of unsigned integers, one element a lane (or one element for all lanes); an instruction looks
at it as the type it names. bfloat16, which numpy lacks, is its 16 bits (uint16).
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray

UNSIGNED: dict[int, np.dtype] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
}
TYPES: dict[str, np.dtype] = {
    f"{kind}{8 * size}": np.dtype(f"{code}{size}") for kind, code in ("bu", "uu", "si") for size in (1, 2, 4, 8)
}
TYPES |= {f"f{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)}
TYPES |= {"bf16": UNSIGNED[2], "pred": np.dtype(bool)}
TYPES |= dict.fromkeys(("f16x2", "bf16x2", "u16x2", "s16x2"), UNSIGNED[4])
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
NAN32 = np.uint32(0x7FFFFFFF).view(np.float32)  # what PTX calls the canonical NaN
SMALLEST_NORMAL = np.float32(2.0**-126)


def bits(x: Array) -> Array:
    """The same lanes as unsigned integers."""
    return x if x.dtype == bool else np.ascontiguousarray(x).view(UNSIGNED[x.dtype.itemsize])


def flush(x: Array) -> Array:
    """`.ftz`: subnormal float32 values become zeros of their sign."""
    small = np.abs(x) < SMALLEST_NORMAL
    return np.where(small, np.copysign(np.float32(0), x), x) if small.any() else x


def from_bfloat16(x: Array) -> Array:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(x: Array, toward_zero: bool = False) -> Array:
    """Round float32 to nearest, ties to even, or toward zero; every NaN becomes 0x7fff."""
    raw = np.ascontiguousarray(x, FLOAT32).view(np.uint32)
    carry = np.uint32(0) if toward_zero else np.uint32(0x7FFF) + (raw >> np.uint32(16) & np.uint32(1))
    rounded = ((raw + carry) >> np.uint32(16)).astype(np.uint16)
    unordered = np.isnan(x)
    return np.where(unordered, np.uint16(0x7FFF), rounded) if unordered.any() else rounded


def fused_multiply_add(x: Array, y: Array, z: Array) -> Array:
    """x·y + z of float32 or narrower values in float64, rounded to odd: rounding it again equals rounding once.

    The product is exact in 53 bits. Where the sum is not, its last bit is made odd, so that it cannot look like
    the middle between two narrower numbers.

    References:
        Boldo, Melquiond: Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd
        (IEEE Transactions on Computers, 2008).
    """
    product, addend = np.broadcast_arrays(x.astype(FLOAT64) * y.astype(FLOAT64), z.astype(FLOAT64))
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)  # of the sum, exactly (Knuth)
    inexact = (error != 0) & np.isfinite(error) & (total.view(np.int64) & 1 == 0)
    if inexact.any():
        away = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        total = np.where(inexact, away, total)
    return total


def narrow_to_odd(x: Array) -> Array:
    """float64 to float32, rounded to odd: for a further rounding to 16 bits."""
    nearest = x.astype(FLOAT32)
    back = nearest.astype(FLOAT64)
    inexact = (back != x) & np.isfinite(nearest) & (nearest.view(np.uint32) & np.uint32(1) == 0)
    toward = np.where(x > back, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact, np.nextafter(nearest, toward), nearest)


def halves(x: Array) -> tuple[Array, Array]:
    """The low and the high 16 bits of 32."""
    return (x & np.uint32(0xFFFF)).astype(np.uint16), (x >> np.uint32(16)).astype(np.uint16)


def joined(low: Array, high: Array) -> Array:
    return bits(low).astype(np.uint32) | bits(high).astype(np.uint32) << np.uint32(16)


def packed(function: Callable[..., Array], element: np.dtype) -> Callable[..., Array]:
    """The function of 16-bit numbers, done to both halves of 32-bit registers."""

    def both(*operands: Array) -> Array:
        low, high = zip(*map(halves, operands), strict=True)
        return joined(function(*(x.view(element) for x in low)), function(*(x.view(element) for x in high)))

    return both
