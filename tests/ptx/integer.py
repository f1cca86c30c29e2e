"""Integer arithmetic: `integer(parts)` gives the numpy function of an instruction."""

from collections.abc import Callable

import numpy as np

from .values import TYPES, UNSIGNED, Array, bits, packed

Function = Callable[..., Array]


def integer(parts: tuple[str, ...]) -> tuple[Function, tuple[np.dtype, ...]] | None:
    """(function, types of the operands) of an instruction such as ("mad", "wide", "s32"), or None if it is not here."""
    head, kind = parts[0], parts[-1]
    if kind in ("u16x2", "s16x2") and parts[:-1] in (("add",), ("min",), ("max",)):
        function, count = _SIMPLE[head]
        return packed(function, TYPES[kind.removesuffix("x2")]), (UNSIGNED[4],) * count
    if kind not in TYPES or TYPES[kind].kind not in "iu" or "x2" in kind or kind == "bf16":
        return None
    dtype = TYPES[kind]
    words = parts[1:-1]
    if head in _SIMPLE and not words:
        function, count = _SIMPLE[head]
        return function, (dtype,) * count
    if head in ("mul", "mad", "mul24", "mad24") and words in (("lo",), ("hi",), ("wide",)):
        if head.endswith("24"):
            return None
        result = _double(dtype) if words == ("wide",) else dtype
        function = _PRODUCTS[words[0]]
        if head == "mul":
            return function, (dtype, dtype)
        return (lambda x, y, z: function(x, y) + z), (dtype, dtype, result)
    if head in ("shl", "shr") and not words:
        return _SHIFTS[head], (dtype, UNSIGNED[4])
    if head in ("bfe", "bfi") and not words:
        return (
            (_extract, (dtype, UNSIGNED[4], UNSIGNED[4]))
            if head == "bfe"
            else (
                _insert,
                (dtype, dtype, UNSIGNED[4], UNSIGNED[4]),
            )
        )
    if head == "shf" and len(words) == 2:
        left, wrap = words[0] == "l", words[1] == "wrap"
        return (lambda low, high, by: _funnel(low, high, by, left, wrap)), (UNSIGNED[4],) * 3
    if head == "lop3" and not words:
        return _lookup, (UNSIGNED[4],) * 4
    if head == "prmt" and not words:
        return _permute, (UNSIGNED[4],) * 3
    if head == "bfind" and words in ((), ("shiftamt",)):
        return (lambda x: _find_leading(x, bool(words))), (dtype,)
    return None


def _double(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")


def _divide(x: Array, y: Array) -> Array:
    """The quotient toward zero. Of a division by zero PTX says nothing: all ones, as NVIDIA's GPUs give."""
    by_zero = y == 0
    y = np.where(by_zero, y.dtype.type(1), y)
    quotient = x // y
    if x.dtype.kind == "i":
        inexact = (quotient * y != x) & ((x < 0) != (y < 0))
        quotient = np.where(inexact, quotient + x.dtype.type(1), quotient)
    return np.where(by_zero, ~x.dtype.type(0), quotient)


def _remainder(x: Array, y: Array) -> Array:
    return np.where(y == 0, x, x - _divide(x, y) * y)


def _low(x: Array, y: Array) -> Array:
    return x * y


def _wide(x: Array, y: Array) -> Array:
    double = _double(x.dtype)
    return x.astype(double) * y.astype(double)


def _high(x: Array, y: Array) -> Array:
    if x.dtype.itemsize < 8:
        return (_wide(x, y) >> (8 * x.dtype.itemsize)).astype(x.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    a, b = bits(x), bits(y)
    cross = (a & low) * (b >> half) + ((a & low) * (b & low) >> half)  # below 2**64
    other = (a >> half) * (b & low) + (cross & low)
    product = (a >> half) * (b >> half) + (cross >> half) + (other >> half)
    if x.dtype.kind == "i":  # the unsigned product counts a negative factor 2**64 too high
        product = product - np.where(x < 0, b, np.uint64(0)) - np.where(y < 0, a, np.uint64(0))
    return product.view(x.dtype)


def _shift_left(x: Array, by: Array) -> Array:
    width = 8 * x.dtype.itemsize
    shifted = x << np.minimum(by, width - 1).astype(x.dtype)
    return np.where(by >= width, x.dtype.type(0), shifted)


def _shift_right(x: Array, by: Array) -> Array:
    width = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(by, width - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(by >= width, x.dtype.type(0), shifted)


def _funnel(low: Array, high: Array, by: Array, left: bool, wrap: bool) -> Array:
    """The 64 bits high:low shifted; the upper word of a left shift, the lower word of a right shift."""
    by = (by & np.uint32(31) if wrap else np.minimum(by, np.uint32(32))).astype(np.uint64)
    both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    return ((both << by >> np.uint64(32)) if left else (both >> by)).astype(np.uint32)


def _mask(length: Array, dtype: np.dtype) -> Array:
    """`length` ones."""
    width = 8 * dtype.itemsize
    one = dtype.type(1)
    return np.where(length >= width, ~dtype.type(0), (one << np.minimum(length, width - 1).astype(dtype)) - one)


def _extract(x: Array, position: Array, length: Array) -> Array:
    """Bits from `position` on; above them zeros, or copies of the field's (or the number's) highest bit."""
    raw, width = bits(x), 8 * x.dtype.itemsize
    position, length = position & np.uint32(255), length & np.uint32(255)
    ones = _mask(length, raw.dtype)
    found = _shift_right(raw, position) & ones
    if x.dtype.kind == "u":
        return found
    top = np.minimum(position.astype(np.int64) + length.astype(np.int64) - 1, width - 1)
    negative = (_shift_right(raw, np.maximum(top, 0).astype(np.uint32)) & raw.dtype.type(1)) != 0
    covered = np.minimum(length, np.maximum(width - position.astype(np.int64), 0)).astype(np.uint32)
    signed = np.where(negative, found & _mask(covered, raw.dtype) | ~_mask(covered, raw.dtype), found)
    return np.where(length == 0, raw.dtype.type(0), signed)


def _insert(source: Array, target: Array, position: Array, length: Array) -> Array:
    position, length = position & np.uint32(255), length & np.uint32(255)
    field = _shift_left(_mask(length, bits(target).dtype), position)
    return bits(target) & ~field | _shift_left(bits(source), position) & field


def _permute(low: Array, high: Array, selector: Array) -> Array:
    """Four bytes of eight, each by four bits of the selector; the fourth bit asks for copies of the byte's sign."""
    both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    out = np.uint32(0)
    for place in range(4):
        choice = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = (both >> ((choice & np.uint32(7)) * np.uint32(8)).astype(np.uint64)).astype(np.uint32) & np.uint32(255)
        sign = np.where(byte >= 128, np.uint32(255), np.uint32(0))
        out = out | np.where(choice >= 8, sign, byte) << np.uint32(8 * place)
    return out


def _lookup(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Any bitwise function of three: bit i of the table is its value where a, b, c are the bits of i."""
    out = a & np.uint32(0)
    for i in range(8):
        if int(table[0]) >> i & 1:
            out = out | (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return out


def _popcount(x: Array) -> Array:
    count = bits(x).copy()
    total = np.zeros(x.shape, np.uint32)
    while count.any():
        total += (count & count.dtype.type(1)).astype(np.uint32)
        count >>= count.dtype.type(1)
    return total


def _leading_zeros(x: Array) -> Array:
    x, width = bits(x), 8 * x.dtype.itemsize
    return np.uint32(width) - sum(
        (_shift_right(x, np.array([i], np.uint32)) != 0).astype(np.uint32) for i in range(width)
    )


def _find_leading(x: Array, as_shift: bool) -> Array:
    """The place of the highest bit that is not the sign, or how far left it is from the top; all ones if none."""
    x = np.where(x < 0, ~x, x) if x.dtype.kind == "i" else x
    zeros = _leading_zeros(x)
    place = zeros if as_shift else np.uint32(8 * x.dtype.itemsize - 1) - zeros
    return np.where(x == 0, np.uint32(0xFFFFFFFF), place)


def _reverse(x: Array) -> Array:
    out, one = bits(x) & bits(x).dtype.type(0), bits(x).dtype.type(1)
    width = 8 * x.dtype.itemsize
    for i in range(width):
        out = out | (bits(x) >> out.dtype.type(i) & one) << out.dtype.type(width - 1 - i)
    return out


_PRODUCTS: dict[str, Function] = {"lo": _low, "hi": _high, "wide": _wide}
_SHIFTS: dict[str, Function] = {"shl": _shift_left, "shr": _shift_right}
_SIMPLE: dict[str, tuple[Function, int]] = {
    "add": (lambda x, y: x + y, 2),
    "sub": (lambda x, y: x - y, 2),
    "div": (_divide, 2),
    "rem": (_remainder, 2),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "abs": (np.abs, 1),
    "neg": (lambda x: -x, 1),
    "sad": (lambda x, y, z: z + np.where(x < y, y - x, x - y), 3),
    "and": (np.bitwise_and, 2),
    "or": (np.bitwise_or, 2),
    "xor": (np.bitwise_xor, 2),
    "not": (np.invert, 1),
    "cnot": (lambda x: (x == 0).astype(x.dtype), 1),
    "popc": (_popcount, 1),
    "clz": (_leading_zeros, 1),
    "brev": (_reverse, 1),
}
