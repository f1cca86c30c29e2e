"""Loads, stores and asynchronous copies: `accessing(instruction)` gives the step that runs it."""

import re

import numpy as np

from .lanes import Lanes
from .move import Step
from .parse import Address, Immediate, Instruction, Operand, Register, Vector
from .registers import Mask
from .trap import Trap
from .values import TYPES, UNSIGNED, Array

# Who may see an access when, and where caches keep it: none of it changes what one launch computes here.
_HINT = re.compile(r"volatile|relaxed|acquire|release|weak|gpu|cta|sys|cluster|nc|c[agsv]|lu|w[bt]|v[248]|L[12]::\w+")
_SPACES = {"param", "global", "shared"}


def accessing(instruction: Instruction) -> Step | None:
    parts = tuple(part.removesuffix("::cta") if part.startswith("shared") else part for part in instruction.parts)
    if parts[0] in ("ld", "st"):
        return _load_or_store(instruction, parts)
    if parts[:2] == ("cp", "async") and parts[2] in ("ca", "cg") and parts[3:5] == ("shared", "global"):
        return _copy(instruction)
    if instruction.opcode == "cp.async.commit_group":
        return _commit
    if parts[:2] == ("cp", "async") and parts[2] in ("wait_group", "wait_all"):
        return _wait(instruction)
    return None


def _load_or_store(instruction: Instruction, parts: tuple[str, ...]) -> Step | None:
    spaces = [part for part in parts[1:-1] if part in _SPACES]
    rest = [part for part in parts[1:-1] if part not in _SPACES]
    if parts[-1] not in TYPES or "x2" in parts[-1] or len(spaces) > 1 or not all(map(_HINT.fullmatch, rest)):
        return None
    dtype, space = TYPES[parts[-1]], spaces[0] if spaces else "global"
    write = parts[0] == "st"
    address, data = instruction.operands[:2] if write else instruction.operands[1::-1]
    assert isinstance(address, Address)
    items = data.items if isinstance(data, Vector) else (data,)
    if space == "param":
        return None if write else _parameter(address, items, dtype)
    return _store(space, address, items, dtype) if write else _load(space, address, items, dtype)


def _parameter(address: Address, items: tuple[Operand, ...], dtype: np.dtype) -> Step | None:
    name = address.base
    if not isinstance(name, str) or len(items) > 1 or address.offset:
        return None
    return lambda lanes, mask: lanes.write(items[0], lanes.machine.arguments[name].view(dtype), mask)


def locate(lanes: Lanes, space: str, address: Address, mask: Mask, size: int) -> tuple[Array, Array, Array]:
    """(lanes that are active, their addresses, all addresses), aligned to `size`."""
    base = address.base
    if isinstance(base, str):
        raise Trap(f"the address {base} is no register")
    lanes.require(base, mask, "an address")
    narrow = space == "shared"
    pointer = lanes.full(base, TYPES["u32" if narrow else "u64"])
    pointer = pointer + pointer.dtype.type(address.offset & (0xFFFFFFFF if narrow else 2**64 - 1))
    chosen = lanes.chosen(mask)
    found = pointer[chosen]
    if (found & found.dtype.type(size - 1)).any():
        raise Trap(f"misaligned access of {size} bytes")
    return chosen, found.astype(np.int64) if narrow else found, pointer


def _active(lanes: Lanes, mask: Mask) -> Array:
    return np.ones(lanes.lanes, bool) if mask is None else mask


def _load(space: str, address: Address, items: tuple[Operand, ...], dtype: np.dtype) -> Step:
    size = dtype.itemsize

    def step(lanes: Lanes, mask: Mask) -> None:
        chosen, at, pointer = locate(lanes, space, address, mask, size * len(items))
        lanes.machine.launch.count(space, False, pointer, _active(lanes, mask), size * len(items))
        found = []
        for i in range(len(items)):
            undefined = None
            if space == "global":
                value = lanes.machine.memory.load(at + np.uint64(i * size), size)
            else:
                value, undefined = lanes.machine.shared.load(
                    lanes.block[chosen], at + i * size, lanes.warp[chosen], size
                )
            found.append(
                (_spread(lanes, chosen, value), None if undefined is None else _spread(lanes, chosen, undefined))
            )
        for item, (value, undefined) in zip(items, found, strict=True):  # the address may be one of the items
            lanes.write(item, value.view(dtype), mask, undefined)

    return step


def _spread(lanes: Lanes, chosen: Array, value: Array) -> Array:
    if len(chosen) == lanes.lanes:
        return value
    out = np.zeros(lanes.lanes, value.dtype)
    out[chosen] = value
    return out


def _store(space: str, address: Address, items: tuple[Operand, ...], dtype: np.dtype) -> Step:
    size, raw = dtype.itemsize, UNSIGNED[dtype.itemsize]

    def step(lanes: Lanes, mask: Mask) -> None:
        chosen, at, pointer = locate(lanes, space, address, mask, size * len(items))
        lanes.machine.launch.count(space, True, pointer, _active(lanes, mask), size * len(items))
        for i, item in enumerate(items):
            value = lanes.full(item, raw)[chosen]
            if space == "global":
                lanes.require(item, mask, "a stored value")
                lanes.machine.memory.store(at + np.uint64(i * size), value, size)
            else:
                undefined = lanes.undefined(item)
                lanes.machine.shared.store(
                    lanes.block[chosen],
                    at + i * size,
                    lanes.warp[chosen],
                    value,
                    size,
                    None if undefined is None else undefined[chosen],
                )

    return step


def _copy(instruction: Instruction) -> Step:
    """cp.async: read now, written to shared memory when a wait says so; what is past the source's size is zero."""
    target, source, size, *rest = instruction.operands
    assert isinstance(target, Address) and isinstance(source, Address) and isinstance(size, Immediate)
    words = size.bits // 4
    limit = rest[0] if rest and isinstance(rest[0], Register | Immediate) else size

    def step(lanes: Lanes, mask: Mask) -> None:
        chosen, to, _ = locate(lanes, "shared", target, mask, size.bits)
        _, at, pointer = locate(lanes, "global", source, mask, size.bits)
        lanes.require(limit, mask, "the size of a copy")
        kept = lanes.full(limit, TYPES["u32"])[chosen]
        content = np.zeros((len(chosen), words), np.uint32)
        for i in range(words):
            read = kept >= np.uint32(4 * i + 4)
            content[read, i] = lanes.machine.memory.load(at[read] + np.uint64(4 * i), 4)
        if (kept % 4).any():
            raise Trap("a copy of a part of a word")
        reading = _spread(lanes, chosen, kept > 0)
        lanes.machine.launch.count("global", False, pointer, reading, size.bits)
        lanes.copies.append((chosen, lanes.copy_group[chosen], to, content))

    return step


def _commit(lanes: Lanes, mask: Mask) -> None:
    lanes.copy_group = lanes.copy_group + _active(lanes, mask)


def _wait(instruction: Instruction) -> Step:
    allowed = instruction.operands[0] if instruction.operands else None
    assert allowed is None or isinstance(allowed, Immediate)

    def step(lanes: Lanes, mask: Mask) -> None:
        waiting, left = _active(lanes, mask), []
        for chosen, group, to, content in lanes.copies:
            behind = group < lanes.copy_group[chosen] - allowed.bits if allowed else np.ones(len(chosen), bool)
            done = waiting[chosen] & behind
            here = chosen[done]
            for i in range(content.shape[1]):
                lanes.machine.shared.store(lanes.block[here], to[done] + 4 * i, lanes.warp[here], content[done, i], 4)
            left.append((chosen[~done], group[~done], to[~done], content[~done]))
        lanes.copies = [copy for copy in left if len(copy[0])]

    return step
