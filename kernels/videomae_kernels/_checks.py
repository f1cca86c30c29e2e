"""Argument checks shared by the ops: each raises an error that names the argument, what came and what is allowed.

There is one check for each kind of argument. All are always on and none is a host sync: they read shapes, dtypes,
devices and Python numbers, never a tensor's values. Values of tensors are looked at by `_values`.
"""

import math
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_COUNT = 2**31 - 1  # row numbers are int32 in every kernel


class Dtypes(NamedTuple):
    """A kind of dtype, in words and as a list."""

    words: str
    allowed: tuple[torch.dtype, ...]


_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FLOATING = Dtypes("floating (float32, float16, bfloat16 or float64)", _FLOATS)
PIXELS = Dtypes("uint8 or floating (float32, float16, bfloat16 or float64)", (torch.uint8, *_FLOATS))
INDEX = Dtypes("int32 or int64", (torch.int64, torch.int32))
INT64 = Dtypes("int64", (torch.int64,))
INT32 = Dtypes("int32", (torch.int32,))
FLOAT32 = Dtypes("float32", (torch.float32,))
UINT8 = Dtypes("uint8", (torch.uint8,))
BOOL = Dtypes("boolean", (torch.bool,))
REAL = Dtypes(
    "a floating, integer or boolean tensor",
    (*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
COPIED = Dtypes(  # what an op copies without computing with it
    "neither complex nor quantised",
    (
        *REAL.allowed,
        *(torch.uint16, torch.uint32, torch.uint64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    ),
)


def describe(value: object) -> str:
    """What came, on one short line: a number or a string as it is, anything else with its type."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor" if value.is_nested else f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    try:
        text = " ".join(reprlib.repr(value).split())
    except ValueError:  # Python does not print an int of more than 4,300 digits
        return f"{type(value).__name__} beyond all limits"
    return text if isinstance(value, (int, float, str, tuple, list, torch.dtype)) else f"{type(value).__name__} {text}"


def check_tensor(
    tensor: Tensor, name: str, dtypes: Dtypes, shape: Sequence[int | str], like: Tensor | None = None
) -> None:
    """`tensor` must be dense, of one of `dtypes` and of `shape` (words are any size), on the device of `like`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {describe(tensor)}")
    if tensor.dtype not in dtypes.allowed:
        raise TypeError(f"{name} must be {dtypes.words}, got {describe(tensor)}")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    check_shape(tensor, name, shape)
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} as the other arguments, got {tensor.device}")


def check_shape(tensor: Tensor, name: str, shape: Sequence[int | str]) -> None:
    """`tensor` must have `shape`, in which words stand for any size."""
    fits = tensor.ndim == len(shape)
    if fits:
        for size, wanted in zip(tensor.shape, shape, strict=True):
            if not isinstance(wanted, str) and size != wanted:
                fits = False
    if not fits:
        comma = "," if len(shape) == 1 else ""
        raise ValueError(f"{name} must have shape ({', '.join(map(str, shape))}{comma}), got {tuple(tensor.shape)}")


def check_index(index: Tensor, name: str, *, batch: int, limit: int, like: Tensor) -> Tensor:
    """`index` as contiguous (batch, K) integers on the device of `like`, with 0 < K <= limit."""
    check_tensor(index, name, INDEX, (batch, "K"), like)
    if index.shape[1] == 0:
        raise ValueError(f"{name} is empty: it must keep at least one token per sample, got shape {tuple(index.shape)}")
    if index.shape[1] > limit:
        raise ValueError(f"{name} lists {index.shape[1]} tokens per sample, but there are only {limit}")
    return index.contiguous()


def check_dtype(dtype: torch.dtype, name: str = "dtype") -> torch.dtype:
    """A floating dtype."""
    if not isinstance(dtype, torch.dtype) or dtype not in _FLOATS:
        raise TypeError(f"{name} must be a {FLOATING.words} torch.dtype, got {describe(dtype)}")
    return dtype


def check_count(value: int, name: str, low: int = 1, high: int = MAX_COUNT) -> int:
    """A whole number in [low, high], of any type that Python can use as an index, but no tensor and no bool."""
    whole = _whole(value)
    if whole is None:
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    if whole < low or whole > high:
        raise ValueError(f"{name} must be an integer in {_interval(low, high)}, got {describe(whole)}")
    return whole


def check_seed(value: int, name: str = "seed") -> int:
    """A seed in [0, 2**63)."""
    return check_count(value, name, 0, 2**63 - 1)


def check_counts(values: Sequence[int], name: str, what: str, count: int = 3) -> tuple[int, ...]:
    """`count` positive whole numbers, as ints; `what` says what they are."""
    wholes = tuple(_whole(value) for value in values) if _is_sequence(values) else ()
    if len(wholes) == count and None not in wholes:
        numbers = tuple(whole for whole in wholes if whole is not None)
        if min(numbers) >= 1 and math.prod(numbers) <= MAX_COUNT:
            return numbers
    error = TypeError if not wholes or None in wholes else ValueError
    raise error(f"{name} must be {what}, integers whose product is below 2**31, got {describe(values)}")


def check_grid(grid: Sequence[int], name: str = "grid") -> tuple[int, int, int]:
    """A token grid (T', H', W') of three positive ints."""
    frames, height, width = check_counts(grid, name, "three positive token counts (T', H', W')")
    return frames, height, width


def check_number(value: float, name: str) -> float:
    """A finite number, but no tensor."""
    number = _number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {describe(value)}")
    return number


def check_ratio(value: float, name: str = "ratio", low: float = 0.0) -> float:
    """A ratio in [low, 1)."""
    number = _number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    if not low <= number < 1.0:
        raise ValueError(f"{name} must be in [{low:g}, 1), got {describe(value)}")
    return number


def check_flag(value: bool, name: str) -> bool:
    """True or False, numpy's included."""
    if value is True or value is False:
        return value
    if str(getattr(value, "dtype", "")) == "bool" and getattr(value, "ndim", None) == 0:
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {describe(value)}")


def check_choice(value: str, name: str, choices: Sequence[str]) -> str:
    """One of the strings in `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {tuple(choices)}, got {describe(value)}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {describe(value)}")
    return value


def check_sequence(values: Sequence[Any], name: str, what: str) -> Sequence[Any]:
    """A list, tuple or array, but no tensor and no string; `what` says of what."""
    if not _is_sequence(values):
        raise TypeError(f"{name} must be a sequence of {what}, got {describe(values)}")
    return values


def _is_sequence(values: object) -> bool:
    if isinstance(values, (tuple, list)):
        return True
    if isinstance(values, (Tensor, str, bytes, dict)) or not hasattr(values, "__getitem__"):
        return False
    return getattr(values, "ndim", 1) == 1 and hasattr(values, "__len__")


def _whole(value: Any) -> int | None:
    """`value` as an int, or None if it is none. A size that `torch.compile` knows by a symbol stays a symbol."""
    if isinstance(value, (int, torch.SymInt)):
        return None if isinstance(value, bool) else value  # type: ignore[return-value]
    if isinstance(value, Tensor) or getattr(value, "ndim", 0) != 0 or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:  # arrays of floats have the method, too
        return None


def _number(value: Any) -> float | None:
    """`value` as a float, or None if it is none; an int beyond all floats is infinite."""
    if isinstance(value, (Tensor, bool)) or getattr(value, "ndim", 0) != 0 or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _interval(low: int, high: int) -> str:
    power = high.bit_length()
    return f"[{low}, 2**{power})" if high > 2**20 and high == 2**power - 1 else f"[{low}, {high}]"
