"""`cvt`: `conversion(parts)` gives the numpy function of an instruction."""

from collections.abc import Callable

import numpy as np

from .floating import Function
from .values import FLOAT32, FLOAT64, TYPES, UNSIGNED, Array, flush, from_bfloat16, joined, narrow_to_odd, to_bfloat16

_TO_INTEGER: dict[str, Callable[[Array], Array]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_FLOATS = {"f16", "bf16", "f32", "f64"}


def conversion(parts: tuple[str, ...]) -> tuple[Function, tuple[np.dtype, ...]] | None:
    """(function, types of the operands) of an instruction such as ("cvt", "rn", "f16", "f32"), or None."""
    if parts[0] != "cvt" or len(parts) < 3:
        return None
    words, target, source = set(parts[1:-2]), parts[-2], parts[-1]
    if target in ("f16x2", "bf16x2") and source == "f32" and words <= {"rn", "rz", "relu"}:
        one = _to_float(target.removesuffix("x2"), source, words)
        return None if one is None else ((lambda high, low: joined(one(low), one(high))), (FLOAT32, FLOAT32))
    if target not in TYPES or source not in TYPES or "x2" in target + source:
        return None
    if target in _FLOATS:
        function = _to_float(target, source, words) if source in _FLOATS else _integer_to_float(target, source, words)
    else:
        function = _float_to_integer(target, source, words) if source in _FLOATS else _integers(target, words)
    return None if function is None else (function, (TYPES[source],))


def _widen(kind: str) -> Function:
    return from_bfloat16 if kind == "bf16" else lambda x: x


def _to_float(target: str, source: str, words: set[str]) -> Function | None:
    if not words <= {"rn", "rz", "ftz", "sat", "relu", *_TO_INTEGER}:
        return None
    if "rz" in words and (target, source) != ("bf16", "f32"):
        return None
    integral = next((_TO_INTEGER[w] for w in sorted(words) if w in _TO_INTEGER), None)
    widen = _widen(source)

    def convert(x: Array) -> Array:
        x = widen(x)
        if "ftz" in words and x.dtype == FLOAT32:
            x = flush(x)
        if integral is not None:
            x = integral(x)
        if "relu" in words:
            x = np.where(x < 0, x.dtype.type(0), x)
        if "sat" in words:
            x = np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))
        if target == "bf16":
            return to_bfloat16(narrow_to_odd(x) if x.dtype == FLOAT64 else x.astype(FLOAT32), "rz" in words)
        out = x.astype(TYPES[target])
        return flush(out) if "ftz" in words and target == "f32" else out

    return convert


def _integer_to_float(target: str, source: str, words: set[str]) -> Function | None:
    if words != {"rn"} or (target == "bf16" and TYPES[source].itemsize == 8):
        return None
    if target == "bf16":
        return lambda x: to_bfloat16(narrow_to_odd(x.astype(FLOAT64)))
    return lambda x: x.astype(TYPES[target])


def _float_to_integer(target: str, source: str, words: set[str]) -> Function | None:
    """Out of range: the nearest end of the range. NaN: 0, or the sign bit alone where either side has 64 bits."""
    modes = words & _TO_INTEGER.keys()
    if len(modes) != 1 or not words <= {*modes, "ftz", "sat"}:
        return None
    rounding, dtype, widen = _TO_INTEGER[modes.pop()], TYPES[target], _widen(source)
    range_ = np.iinfo(dtype)
    past = 2.0 ** (8 * dtype.itemsize - (dtype.kind == "i"))
    of_nan = 1 << (8 * dtype.itemsize - 1) if dtype.itemsize == 8 or source == "f64" else 0

    def convert(x: Array) -> Array:
        x = widen(x)
        if "ftz" in words and x.dtype == FLOAT32:
            x = flush(x)
        x = rounding(x.astype(FLOAT64))
        inside = (x < past) & (x >= float(range_.min))
        out = np.where(inside, x, 0).astype(dtype)
        out = np.where(inside, out, np.where(x > 0, dtype.type(range_.max), dtype.type(range_.min)))
        return np.where(np.isnan(x), np.array([of_nan], UNSIGNED[dtype.itemsize]).view(dtype), out)

    return convert


def _integers(target: str, words: set[str]) -> Function | None:
    dtype = TYPES[target]
    if not words:
        return lambda x: x.astype(dtype)
    if words != {"sat"}:
        return None
    range_ = np.iinfo(dtype)

    def clamp(x: Array) -> Array:
        own = np.iinfo(x.dtype)
        low, high = max(own.min, range_.min), min(own.max, range_.max)
        return np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(dtype)

    return clamp
