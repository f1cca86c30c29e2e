"""Make Triton's interpreter (TRITON_INTERPRET=1) say what a GPU would say.

As it comes, the interpreter computes bfloat16 on the raw 16-bit patterns, truncates float32 -> bfloat16, and
runs programs one after the other, so that a stray address or two programs meeting at one address go unseen.
`install()` adds, for every kernel that runs afterwards:

* bfloat16 arithmetic: operands are widened to float32, results are rounded to nearest even, as in PyTorch;
* `OutOfBounds` and `Race`, see memory.py;
* atomics are refused: the kernels here promise results that repeat bit by bit.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from tests.kernels.memory import Memory, Race

# The float operations whose operands must all be widened together.
ARITHMETIC = (
    *("fadd", "fsub", "fmul", "fneg", "fdiv", "frem", "precise_divf", "approx_divf", "fma", "dot", "clampf"),
    *("minimumf", "minnumf", "maximumf", "maxnumf"),
    *(f"fcmp{order}{relation}" for order in "OU" for relation in ("LT", "GT", "LE", "GE", "EQ", "NE")),
    *("cos", "sin", "exp", "exp2", "log", "log2", "sqrt", "precise_sqrt", "rsqrt", "erf", "floor", "ceil"),
)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (np.atleast_1d(bits).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(bits))


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even; every NaN becomes the quiet one."""
    bits = np.atleast_1d(np.asarray(values, dtype=np.float32)).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.reshape(np.shape(values)))


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, interpreter.TensorHandle) and value.dtype.scalar == tl.bfloat16


def _widen(value: Any) -> Any:
    return interpreter.TensorHandle(bfloat16_to_float32(value.data), tl.float32) if _is_bfloat16(value) else value


def _narrow(value: Any) -> Any:
    if value.data.dtype == np.bool_:
        return interpreter.TensorHandle(value.data, tl.int1)
    return interpreter.TensorHandle(float32_to_bfloat16(value.data), tl.bfloat16)


def _in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in float32; the result has the type of the last operand (for a dot: of the accumulator)."""

    @functools.wraps(method)
    def computed(self: Any, *operands: Any) -> Any:
        handles = [x for x in operands if isinstance(x, interpreter.TensorHandle)]
        if not any(_is_bfloat16(x) for x in handles):
            return method(self, *operands)
        result = method(self, *map(_widen, operands))
        return _narrow(result) if _is_bfloat16(handles[-1]) else result

    return computed


def _cast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Conversions from and to bfloat16 go through float32 (as in PyTorch) and round to nearest even."""

    @functools.wraps(method)
    def converted(self: Any, source: Any, target: Any, *rounding: Any) -> Any:
        if source.dtype.scalar == target.scalar or tl.bfloat16 not in (source.dtype.scalar, target.scalar):
            return method(self, source, target, *rounding)
        source = _widen(source)
        if target.scalar != tl.bfloat16:
            return interpreter.TensorHandle(source.data.astype(interpreter._get_np_dtype(target)), target.scalar)
        return _narrow(interpreter.TensorHandle(source.data.astype(np.float32), tl.float32))

    return converted


def _reduce_in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Reductions and scans of bfloat16 tensors accumulate in float32 and round once."""

    @functools.wraps(method)
    def reduced(self: Any, inputs: tuple[Any, ...]) -> Any:
        was_bfloat16 = [x.dtype.scalar == tl.bfloat16 for x in inputs]
        wide = [
            self.to_tensor(_widen(x.handle).data, tl.float32) if b else x
            for x, b in zip(inputs, was_bfloat16, strict=True)
        ]
        results = method(self, tuple(wide))
        if not any(was_bfloat16):
            return results
        listed = list(results) if isinstance(results, (tuple, list)) else [results]
        narrow = [
            self.to_tensor(float32_to_bfloat16(r.handle.data).reshape(r.shape or ()), tl.bfloat16)
            if was and r.dtype.scalar == tl.float32
            else r
            for r, was in zip(listed, was_bfloat16, strict=False)
        ]
        return narrow if isinstance(results, (tuple, list)) else narrow[0]

    return reduced


@functools.cache
def install() -> None:
    """Patch the interpreter of the imported Triton, once; call before the first launch."""
    builder = interpreter.InterpreterBuilder
    for name in (f"create_{operation}" for operation in ARITHMETIC):
        if hasattr(builder, name):
            setattr(builder, name, _in_float32(getattr(builder, name)))
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _cast(builder.create_fp_to_fp)
    builder.get_bf16 = lambda self, value: _narrow(interpreter.TensorHandle(np.array([value], np.float32), tl.float32))
    for reduction in (interpreter.ReduceOps, interpreter.ScanOps):
        reduction.apply_impl = _reduce_in_float32(reduction.apply_impl)

    memory = Memory(())
    load, store, launch = (
        builder.create_masked_load,
        builder.create_masked_store,
        interpreter.GridExecutor.__call__,
    )

    def program(self: Any) -> int:
        x, y, z = self.grid_idx
        return int((x * self.grid_dim[1] + y) * self.grid_dim[2] + z)

    def lanes(mask: Any) -> np.ndarray:
        return mask.data if isinstance(mask, interpreter.TensorHandle) else mask

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        memory.read(memory.find(pointers.data, lanes(mask), "load", self.grid_idx), program(self))
        return load(self, pointers, mask, *rest, **options)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        memory.write(memory.find(pointers.data, lanes(mask), "store", self.grid_idx), program(self))
        return store(self, pointers, value, mask, *rest, **options)

    def checked_launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal memory
        memory = Memory([*args, *kwargs.values()])
        return launch(self, *args, **kwargs)

    def refuse_atomics(*args: Any, **kwargs: Any) -> Any:
        raise Race("atomics make the order of additions, and so the result, vary from run to run")

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    for name in [name for name in dir(builder) if name.startswith("create_atomic_")]:
        setattr(builder, name, refuse_atomics)
    interpreter.GridExecutor.__call__ = checked_launch
