"""Comparisons and predicate arithmetic: `logic(parts)` gives the numpy function of an instruction."""

from collections.abc import Callable

import numpy as np

from .values import TYPES, Array, flush, from_bfloat16

Function = Callable[..., Array]
Resolved = tuple[Callable[..., Array | tuple[Array, Array]], tuple[np.dtype, ...]]

_ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
_BOOL = TYPES["pred"]


def logic(parts: tuple[str, ...]) -> Resolved | None:
    """(function, types of the operands) of an instruction such as ("setp", "lt", "s32"), or None if it is not here.

    The function of `setp` gives two predicates: the comparison, and its opposite.
    """
    head, kind = parts[0], parts[-1]
    if kind == "pred" and len(parts) == 2:
        if head in _COMBINE:
            return _COMBINE[head], (_BOOL, _BOOL)
        if head in ("not", "mov"):
            return (np.logical_not if head == "not" else np.array), (_BOOL,)
    if head == "setp" and kind in TYPES and "x2" not in kind:
        return _set_predicate(list(parts[1:-1]), kind)
    if head == "testp" and kind in ("f32", "f64") and parts[1] in _TESTS:
        return _TESTS[parts[1]], (TYPES[kind],)
    return None


def _set_predicate(words: list[str], kind: str) -> Resolved | None:
    flushed = "ftz" in words
    words = [word for word in words if word != "ftz"]
    compare = _comparison(words[0], kind)
    combine = _COMBINE.get(words[1]) if len(words) == 2 else None
    if compare is None or len(words) > 2 or (len(words) == 2 and combine is None):
        return None

    def both(x: Array, y: Array, *other: Array) -> tuple[Array, Array]:
        if flushed and kind == "f32":
            x, y = flush(x), flush(y)
        found = compare(x, y)
        if combine is None:
            return found, ~found
        return combine(found, *other), combine(~found, *other)

    return both, (TYPES[kind], TYPES[kind], *([_BOOL] if combine else []))


def _comparison(name: str, kind: str) -> Function | None:
    """Ordered comparisons are false if either is NaN; those that end in "u" are true then."""
    if kind in ("f16", "bf16", "f32", "f64"):
        base = name.removesuffix("u")
        widen = from_bfloat16 if kind == "bf16" else lambda x: x
        if name in ("num", "nan"):
            return lambda x, y: (np.isnan(widen(x)) | np.isnan(widen(y))) == (name == "nan")
        if base not in _ORDERED:
            return None
        test, unordered = _ORDERED[base], base != name

        def compare(x: Array, y: Array) -> Array:
            x, y = widen(x), widen(y)
            if base == "ne" or unordered:  # numpy: comparisons with NaN are false, but for !=
                undecided = np.isnan(x) | np.isnan(y)
                return test(x, y) | undecided if unordered else test(x, y) & ~undecided
            return test(x, y)

        return compare
    return _ORDERED.get(_UNSIGNED_NAMES.get(name, name))


_TESTS: dict[str, Function] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
}
