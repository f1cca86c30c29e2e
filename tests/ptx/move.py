"""Elementwise instructions, moves and selections: `moving(instruction)` gives the step that runs it."""

from collections.abc import Callable

import numpy as np

from .convert import conversion
from .floating import floating
from .integer import integer
from .lanes import Lanes
from .logic import logic
from .parse import Instruction, Operand, Vector
from .registers import Mask
from .trap import Trap
from .values import TYPES, UNSIGNED, Array

Step = Callable[[Lanes, Mask], None]

_NOTHING = ("fence", "membar")  # memory ordering is not modelled


def moving(instruction: Instruction) -> Step | None:
    parts = instruction.parts
    if parts[0] == "mov" and parts[-1] != "pred" and len(parts) == 2:
        return _move(instruction)
    if parts[0] == "selp" and len(parts) == 2:
        return _select(instruction)
    if instruction.opcode in ("cvta.to.global.u64", "cvta.global.u64"):  # global addresses are generic ones
        return _elementwise(instruction, np.array, (TYPES["u64"],))
    if instruction.opcode.startswith("createpolicy.fractional."):  # a hint to caches
        return lambda lanes, mask: lanes.write(instruction.operands[0], np.zeros(1, np.uint64), mask)
    if parts[0] in _NOTHING:
        return lambda lanes, mask: None
    if instruction.opcode == "trap":
        return _stop
    found = integer(parts) or floating(parts) or conversion(parts) or logic(parts)
    return None if found is None else _elementwise(instruction, *found)


def _stop(lanes: Lanes, mask: Mask) -> None:
    raise Trap("the kernel stops itself")


def _elementwise(instruction: Instruction, function: Callable[..., object], types: tuple[np.dtype, ...]) -> Step:
    """One function of the sources, lane by lane; its results go to as many destinations."""
    targets, sources = instruction.operands[: -len(types)], instruction.operands[-len(types) :]
    if not targets or len(targets) > 2:
        raise Trap(f"{len(instruction.operands)} operands")
    absorbing = {"and": 0, "or": -1}.get(instruction.parts[0])
    pairs = tuple(zip(sources, types, strict=True))

    def step(lanes: Lanes, mask: Mask) -> None:
        values = [lanes.read(source, dtype) for source, dtype in pairs]
        out = function(*values)
        undefined = lanes.any_undefined(sources)
        if undefined is not None and absorbing is not None:
            undefined = _unless_absorbed(lanes, sources, values, absorbing)
        results = out if isinstance(out, tuple) else (out,)
        for target, result in zip(targets, results, strict=False):
            assert isinstance(result, np.ndarray)
            lanes.write(target, result, mask, undefined)

    return step


def _unless_absorbed(lanes: Lanes, sources: tuple[Operand, ...], values: list[Array], absorbing: int) -> Array:
    """Lanes that an undefined value reaches: 0 & anything is 0, and -1 | anything is -1."""
    reached, decided = np.zeros(lanes.lanes, bool), np.zeros(lanes.lanes, bool)
    for source, value in zip(sources, values, strict=True):
        own = lanes.undefined(source)
        known = value == value.dtype.type(0) if absorbing == 0 else ~value == value.dtype.type(0)
        reached = reached | (False if own is None else own)
        decided = decided | (known if own is None else known & ~own)
    return reached & ~decided


def _select(instruction: Instruction) -> Step:
    target, yes, no, predicate = instruction.operands
    dtype = TYPES[instruction.parts[1]]

    def step(lanes: Lanes, mask: Mask) -> None:
        chosen = lanes.read(predicate, TYPES["pred"])
        missing = [lanes.undefined(x) for x in (yes, no, predicate)]
        undefined = None
        if any(x is not None for x in missing):
            of_yes, of_no, of_predicate = (np.zeros(1, bool) if x is None else x for x in missing)
            undefined = np.where(chosen, of_yes, of_no) | of_predicate
        lanes.write(target, np.where(chosen, lanes.read(yes, dtype), lanes.read(no, dtype)), mask, undefined)

    return step


def _move(instruction: Instruction) -> Step | None:
    target, source = instruction.operands
    kind = instruction.parts[1]
    if kind not in TYPES:
        return None
    dtype = TYPES[kind]
    if isinstance(target, Vector):
        return _unpack(target.items, source, UNSIGNED[dtype.itemsize])
    if isinstance(source, Vector):
        return _pack(target, source.items, UNSIGNED[dtype.itemsize])

    def step(lanes: Lanes, mask: Mask) -> None:
        lanes.write(target, lanes.read(source, dtype), mask, lanes.undefined(source))

    return step


def _unpack(targets: tuple[Operand, ...], source: Operand, dtype: np.dtype) -> Step:
    part = UNSIGNED[dtype.itemsize // len(targets)]

    def step(lanes: Lanes, mask: Mask) -> None:
        value, undefined = lanes.read(source, dtype), lanes.undefined(source)
        for i, target in enumerate(targets):
            lanes.write(target, (value >> dtype.type(8 * i * part.itemsize)).astype(part), mask, undefined)

    return step


def _pack(target: Operand, sources: tuple[Operand, ...], dtype: np.dtype) -> Step:
    part = UNSIGNED[dtype.itemsize // len(sources)]

    def step(lanes: Lanes, mask: Mask) -> None:
        value = np.zeros(1, dtype)
        for i, source in enumerate(sources):
            value = value | lanes.read(source, part).astype(dtype) << dtype.type(8 * i * part.itemsize)
        lanes.write(target, value, mask, lanes.any_undefined(sources))

    return step
