"""What the lanes of a warp do together: shuffles, votes, reductions, and matrices in shared memory."""

import numpy as np

from .access import locate
from .count import WARP
from .lanes import Lanes
from .move import Step
from .parse import Address, Instruction, Operand, Vector
from .registers import Mask
from .trap import Trap
from .values import TYPES, Array

_ALL = 0xFFFFFFFF
_LANE = np.arange(WARP)


def warping(instruction: Instruction) -> Step | None:
    parts = instruction.parts
    if parts[:2] == ("shfl", "sync") and parts[2] in ("up", "down", "bfly", "idx") and parts[3] == "b32":
        return _shuffle(instruction, parts[2])
    if parts[:2] == ("redux", "sync") and parts[2] in _REDUCTIONS and parts[3] in ("s32", "u32", "b32"):
        return _reduce(instruction, parts[2], TYPES[parts[3]])
    if parts[:2] == ("vote", "sync") and parts[2] in ("ballot", "any", "all", "uni"):
        return _vote(instruction, parts[2])
    if instruction.opcode == "activemask.b32":
        return _active_mask(instruction)
    if instruction.opcode == "bar.warp.sync":
        return lambda lanes, mask: _require_all(lanes, mask, instruction.operands[-1])
    if parts[0] in ("ldmatrix", "stmatrix") and parts[1:4] == ("sync", "aligned", "m8n8") and parts[-1] == "b16":
        return _matrices(instruction)
    return None


def _require_all(lanes: Lanes, mask: Mask, members: Operand | None = None) -> None:
    """Whole warps only, and (as compilers write it) all lanes among the members."""
    lanes.require_whole_warps(mask)
    if members is not None and (lanes.full(members, TYPES["u32"])[lanes.chosen(mask)] != _ALL).any():
        raise Trap("not all lanes of the warp are members")


def _by_warp(value: Array) -> Array:
    return value.reshape(-1, WARP)


def _shuffle(instruction: Instruction, mode: str) -> Step:
    """PTX ISA, "shfl.sync": `c` holds the clamp (low 5 bits) and the mask of a segment (bits 8 to 12)."""
    *targets, source, by, clamp, members = instruction.operands

    def step(lanes: Lanes, mask: Mask) -> None:
        _require_all(lanes, mask, members)
        lanes.require(by, mask, "the lane of a shuffle")
        b = _by_warp(lanes.full(by, TYPES["u32"])).astype(np.int64) & 31
        c = _by_warp(lanes.full(clamp, TYPES["u32"])).astype(np.int64)
        segment = c >> 8 & 31
        highest = (_LANE & segment) | (c & 31 & ~segment)
        lowest = _LANE & segment
        if mode == "up":
            wanted = _LANE - b
            inside = wanted >= highest
        else:
            wanted = {"down": _LANE + b, "bfly": _LANE ^ b, "idx": lowest | (b & ~segment)}[mode]
            inside = wanted <= highest
        wanted = np.where(inside, wanted, np.broadcast_to(_LANE, wanted.shape))
        value = np.take_along_axis(_by_warp(lanes.full(source, TYPES["b32"])), wanted, axis=1).reshape(-1)
        missing = lanes.undefined(source)
        if missing is not None:
            missing = np.take_along_axis(_by_warp(missing), wanted, axis=1).reshape(-1)
        lanes.write(targets[0], value, mask, missing)
        if len(targets) > 1:
            lanes.write(targets[1], inside.reshape(-1), mask)

    return step


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def _reduce(instruction: Instruction, name: str, dtype: np.dtype) -> Step:
    target, source, members = instruction.operands

    def step(lanes: Lanes, mask: Mask) -> None:
        _require_all(lanes, mask, members)
        lanes.require(source, mask, "a reduction")
        total = _REDUCTIONS[name].reduce(_by_warp(lanes.full(source, dtype)), axis=1, dtype=dtype)
        lanes.write(target, np.repeat(total, WARP), mask)

    return step


def _vote(instruction: Instruction, mode: str) -> Step:
    target, source, members = instruction.operands

    def step(lanes: Lanes, mask: Mask) -> None:
        _require_all(lanes, mask, members)
        lanes.require(source, mask, "a vote")
        votes = _by_warp(lanes.full(source, TYPES["pred"]))
        if mode == "ballot":
            out = (votes.astype(np.uint64) << _LANE.astype(np.uint64)).sum(1, dtype=np.uint64).astype(np.uint32)
        elif mode == "uni":
            out = votes.all(1) | ~votes.any(1)
        else:
            out = votes.any(1) if mode == "any" else votes.all(1)
        lanes.write(target, np.repeat(out, WARP), mask)

    return step


def _active_mask(instruction: Instruction) -> Step:
    def step(lanes: Lanes, mask: Mask) -> None:
        active = np.ones(lanes.lanes, bool) if mask is None else mask
        bits = (_by_warp(active).astype(np.uint64) << _LANE.astype(np.uint64)).sum(1, dtype=np.uint64)
        lanes.write(instruction.operands[0], np.repeat(bits.astype(np.uint32), WARP), mask)

    return step


def _matrices(instruction: Instruction) -> Step | None:
    """8×8 matrices of 16-bit elements: row r of matrix i lies at the address that lane 8·i + r holds.

    Lane l holds elements (l // 4, 2·(l % 4)) and the next of each matrix, or with `.trans` of its transpose.
    """
    parts = instruction.parts
    write, transposed = parts[0] == "stmatrix", "trans" in parts
    address, data = instruction.operands if write else instruction.operands[::-1]
    if not isinstance(address, Address) or not {"shared", "shared::cta"} & set(parts):
        return None
    registers = data.items if isinstance(data, Vector) else (data,)
    size = 2 if transposed else 4

    def step(lanes: Lanes, mask: Mask) -> None:
        _require_all(lanes, mask)
        rows = np.zeros(lanes.lanes, bool)
        rows[:] = True if mask is None else mask
        rows &= np.tile(8 * len(registers) > _LANE, lanes.lanes // WARP)
        _, _, pointer = locate(lanes, "shared", address, rows, 16)
        lanes.machine.launch.count("shared", write, pointer, rows, 16)
        starts, chosen = _by_warp(pointer.astype(np.int64)), lanes.chosen(mask)
        block, warp, shared = lanes.block[chosen], lanes.warp[chosen], lanes.machine.shared
        for i, register in enumerate(registers):
            value, undefined = np.zeros(lanes.lanes, np.uint32), np.zeros(lanes.lanes, bool)
            for part in range(4 // size):
                row, column = (2 * (_LANE % 4) + part, _LANE // 4) if transposed else (_LANE // 4, 2 * (_LANE % 4))
                at = (starts[:, 8 * i + row] + 2 * column).reshape(-1)[chosen]
                if write:
                    held = lanes.full(register, TYPES["b32"])[chosen] >> np.uint32(16 * part)
                    missing = lanes.undefined(register)
                    held = held.astype(np.uint16) if transposed else held
                    shared.store(block, at, warp, held, size, None if missing is None else missing[chosen])
                else:
                    held, missing = shared.load(block, at, warp, size)
                    value[chosen] |= held.astype(np.uint32) << np.uint32(16 * part)
                    undefined[chosen] |= False if missing is None else missing
            if not write:
                lanes.write(register, value, mask, undefined)

    return step
