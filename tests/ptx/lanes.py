"""A group of lanes that run in lockstep: one warp, or every warp, of each block of a chunk."""

from dataclasses import dataclass

import numpy as np

from .count import WARP, Launch
from .memory import Memory
from .parse import Program
from .registers import Mask, Registers
from .shared import Shared
from .trap import Trap
from .values import Array


@dataclass
class Machine:
    """What the lanes of a chunk share."""

    program: Program
    arguments: dict[str, Array]  # of the kernel, one element each
    memory: Memory
    shared: Shared
    launch: Launch


class Lanes(Registers):
    """Lanes in whole warps; `block` and `thread` say which each is, `active` which run the present instruction."""

    def __init__(self, machine: Machine, first_block: int, block: Array, thread: Array) -> None:
        super().__init__(machine.program.widths, len(thread))
        self.machine, self.block, self.thread = machine, block, thread
        self.warp = thread // WARP
        self.pc = np.zeros(len(thread), np.int64)  # the next basic block
        self.resume = np.full(len(thread), -1)  # of lanes that wait at a barrier: the basic block after it
        self.active: Mask = None
        self.copies: list[tuple[Array, Array, Array, Array]] = []  # asynchronous: lanes, groups, addresses, words
        self.copy_group = np.zeros(len(thread), np.int64)
        self._set_special(first_block + block)

    def _set_special(self, block: Array) -> None:
        x, y, z = self.machine.launch.grid
        zero = np.zeros(1, np.uint32)
        known = {
            "%tid.x": self.thread,
            "%tid.y": zero,
            "%tid.z": zero,
            "%ntid.x": zero + np.uint32(self.machine.program.threads),
            "%ntid.y": zero + np.uint32(1),
            "%ntid.z": zero + np.uint32(1),
            "%ctaid.x": block % x,
            "%ctaid.y": block // x % y,
            "%ctaid.z": block // (x * y),
            "%nctaid.x": zero + np.uint32(x),
            "%nctaid.y": zero + np.uint32(y),
            "%nctaid.z": zero + np.uint32(z),
            "%laneid": self.thread % WARP,
        }
        for name, value in known.items():
            self.values[self.machine.program.registers[name]] = value.astype(np.uint32)

    def chosen(self, mask: Mask) -> Array:
        """Numbers of the lanes in a mask."""
        return np.arange(self.lanes) if mask is None else np.flatnonzero(mask)

    def require_whole_warps(self, mask: Mask) -> None:
        if mask is not None:
            warps = mask.reshape(-1, WARP)
            if (warps.any(1) & ~warps.all(1)).any():
                raise Trap("reached by a part of a warp")
