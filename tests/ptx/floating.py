"""Floating-point arithmetic: `floating(parts)` gives the numpy function of an instruction.

add, sub, mul, div.rn, sqrt.rn and fma are rounded once, as IEEE 754 and PTX have it. The approximate instructions
(`.approx`, `.full`) are computed in float64 and rounded: a GPU may differ by the error that PTX documents for each.
The payload of a NaN that arithmetic makes is the host's.
"""

from collections.abc import Callable

import numpy as np

from . import values
from .values import FLOAT32, FLOAT64, NAN32, TYPES, UNSIGNED, Array, bits, flush, from_bfloat16, packed, to_bfloat16

Function = Callable[..., Array]

_MODIFIERS = {"rn", "ftz", "sat", "relu", "NaN", "approx", "full"}


def floating(parts: tuple[str, ...]) -> tuple[Function, tuple[np.dtype, ...]] | None:
    """(function, types of the operands) of an instruction such as ("fma", "rn", "f32"), or None if it is not here."""
    head, kind, words = parts[0], parts[-1], set(parts[1:-1])
    if kind not in ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64") or not words <= _MODIFIERS:
        return None
    function = _function(head, kind.removesuffix("x2"), words)
    if function is None:
        return None
    count = _OPERANDS.get(head, 2)
    if kind.endswith("x2"):
        return packed(function, TYPES[kind.removesuffix("x2")]), (UNSIGNED[4],) * count
    return function, (TYPES[kind],) * count


_OPERANDS = {"fma": 3, **dict.fromkeys(("neg", "abs", "sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh"), 1)}


def _function(head: str, kind: str, words: set[str]) -> Function | None:
    if head in ("neg", "abs") and words <= {"ftz"}:
        return _with_flush(_SIGNS[head](TYPES[kind].itemsize, TYPES[kind]), words if kind == "f32" else set())
    if head == "fma":
        return None if kind == "f64" else _with_flush(_ending(_FMA[kind], kind, words), words, kind)
    if head in ("min", "max") and words <= {"ftz", "NaN"}:
        chosen = _extreme(head == "min", "NaN" in words)
    elif head in _BASIC and not words & {"approx", "full"}:
        chosen = _BASIC[head]
        if head in ("div", "sqrt", "rcp") and "rn" not in words:
            return None
    elif head in _APPROXIMATE and words & {"approx", "full"} and kind != "f64":
        chosen = _once_rounded(_APPROXIMATE[head])
    else:
        return None
    if kind == "bf16":
        wide = chosen

        def chosen(*x: Array) -> Array:
            return to_bfloat16(wide(*map(from_bfloat16, x)))

    return _with_flush(_ending(chosen, kind, words), words, kind)


def _ending(function: Function, kind: str, words: set[str]) -> Function:
    """`.sat`: clamped to [0, 1]; `.relu`: negative values become zero. A NaN becomes 0 by the first only."""
    if not words & {"sat", "relu"}:
        return function
    high = 1.0 if "sat" in words else np.inf

    def ended(*x: Array) -> Array:
        out = function(*x)
        number = from_bfloat16(out) if kind == "bf16" else out
        unordered = np.isnan(number)
        number = np.where(number > 0, np.minimum(number, number.dtype.type(high)), number.dtype.type(0))
        if "sat" not in words:
            number = np.where(unordered, number.dtype.type(np.nan), number)
        return to_bfloat16(number) if kind == "bf16" else number

    return ended


def _with_flush(function: Function, words: set[str], kind: str = "f32") -> Function:
    if "ftz" not in words or kind != "f32":
        return function
    return lambda *x: flush(function(*map(flush, x)))


def _once_rounded(function: Function) -> Function:
    """In float64, rounded to the type of the operands."""
    return lambda *x: function(*(each.astype(FLOAT64) for each in x)).astype(x[0].dtype)


def _extreme(smaller: bool, keep_nan: bool) -> Function:
    """A NaN gives way to a number, or (`.NaN`) wins; -0 is below +0."""
    ordered, propagating = (np.fmin, np.minimum) if smaller else (np.fmax, np.maximum)
    combine = np.bitwise_or if smaller else np.bitwise_and

    def extreme(x: Array, y: Array) -> Array:
        out = (propagating if keep_nan else ordered)(x, y)
        zeros = (x == 0) & (y == 0)
        if zeros.any():
            out = np.where(zeros, combine(bits(x), bits(y)).view(x.dtype), out)
        unordered = np.isnan(out)
        return np.where(unordered, NAN32.astype(x.dtype), out) if unordered.any() else out

    return extreme


def _negate(size: int, dtype: np.dtype) -> Function:
    sign = UNSIGNED[size].type(1 << (8 * size - 1))
    return lambda x: (bits(x) ^ sign).view(dtype)


def _absolute(size: int, dtype: np.dtype) -> Function:
    rest = UNSIGNED[size].type((1 << (8 * size - 1)) - 1)
    return lambda x: (bits(x) & rest).view(dtype)


def _fma_float32(x: Array, y: Array, z: Array) -> Array:
    return values.fused_multiply_add(x, y, z).astype(FLOAT32)


def _fma_float16(x: Array, y: Array, z: Array) -> Array:
    return values.fused_multiply_add(x, y, z).astype(np.float16)


def _fma_bfloat16(x: Array, y: Array, z: Array) -> Array:
    total = values.fused_multiply_add(*map(from_bfloat16, (x, y, z)))
    return to_bfloat16(values.narrow_to_odd(total))


_SIGNS: dict[str, Callable[[int, np.dtype], Function]] = {"neg": _negate, "abs": _absolute}
_FMA: dict[str, Function] = {"f32": _fma_float32, "f16": _fma_float16, "bf16": _fma_bfloat16}
_BASIC: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
    "rcp": lambda x: x.dtype.type(1) / x,
}
_APPROXIMATE: dict[str, Function] = {
    "div": np.divide,
    "rcp": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
