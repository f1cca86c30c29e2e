"""Run a launch: blocks in chunks, lanes in lockstep, the lowest program counter first, warps in random order.

Lanes that branch apart are run from the lowest basic block on, so that they meet again where compilers let branches
meet. Lanes at a shuffle, a vote or a warp barrier wait for the others of their warp, as they do since sm_70. If the
kernel has barriers, the warps of a block run to the next one in turns, one or a few at a time, in a random order that
a seed decides. Lanes that wait at a barrier go on when every thread of their block waits there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .access import accessing
from .count import WARP, Launch
from .lanes import Lanes, Machine
from .memory import Memory
from .move import Step, moving
from .parse import Instruction, Name, Program, Register, is_block_barrier, is_warp_meeting, parse
from .registers import Mask
from .shared import Shared
from .trap import Trap
from .values import TYPES, UNSIGNED, Array
from .warp import warping

_kernels: dict[str, "Kernel"] = {}  # by their PTX
TURNS = 4  # of the warps of a block between two barriers: more would take as many times longer
LANES = 8192  # that a chunk of blocks has at most, if a block has no more


@dataclass(frozen=True)
class Block:
    """A basic block: steps with their guards, what ends it, and whether lanes wait for their warp at its beginning."""

    steps: tuple[tuple[Instruction, Step], ...]
    end: Instruction | None
    meets: bool


class Kernel:
    """A program whose instructions are resolved; an opcode that this package does not know is a trap, here already."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.blocks = [self._block(block) for block in program.blocks]
        self.done = len(self.blocks)  # a program counter past the end

    def run(
        self,
        grid: tuple[int, int, int],
        arguments: Sequence[int | float],
        memory: Memory,
        launch: Launch,
        seed: int = 0,
    ) -> None:
        """Run all blocks; results are in `memory`'s regions, counts in `launch`."""
        per_chunk = max(1, LANES // self.program.threads)
        values = self._arguments(arguments)
        random = np.random.default_rng(seed)
        ran = np.zeros(len(self.blocks), np.int64), np.zeros(len(self.blocks), np.int64)
        with np.errstate(all="ignore"):
            for first in range(0, launch.blocks, per_chunk):
                blocks = min(per_chunk, launch.blocks - first)
                shared = Shared(blocks, launch.shared_bytes + self.program.static_shared)
                machine = Machine(self.program, values, memory, shared, launch)
                self._run_chunk(machine, first, blocks, random, ran)
        self._count(launch, *ran)

    def _block(self, block: list[Instruction]) -> Block:
        last = block[-1] if block else None
        ends = last is not None and (last.opcode.startswith(("bra", "ret", "exit")) or is_block_barrier(last.opcode))
        steps = block[:-1] if ends else block
        meets = bool(steps) and is_warp_meeting(steps[0].opcode)
        return Block(tuple((i, self._step(i)) for i in steps), last if ends else None, meets)

    def _step(self, instruction: Instruction) -> Step:
        try:
            for family in (moving, accessing, warping):
                if step := family(instruction):
                    return step
        except (Trap, ValueError, AssertionError, IndexError) as error:
            raise Trap(f"{self._where(instruction)}: cannot be read ({error})") from error
        raise Trap(f"{self._where(instruction)}: unknown opcode {instruction.opcode}")

    def _where(self, instruction: Instruction) -> str:
        return f"{self.program.name}, {instruction.line}, `{instruction.text}`"

    def _arguments(self, arguments: Sequence[int | float]) -> dict[str, Array]:
        """By name. Pointers that the compiler adds behind the kernel's own parameters are null."""
        found = {}
        for i, (name, kind) in enumerate(self.program.parameters.items()):
            value = arguments[i] if i < len(arguments) else 0
            if kind in ("f16", "f32", "f64"):
                found[name] = np.array([value], TYPES[kind])
            else:
                raw = UNSIGNED[TYPES[kind].itemsize]
                found[name] = np.array([int(value) & ((1 << 8 * raw.itemsize) - 1)], raw)
        return found

    def _run_chunk(
        self, machine: Machine, first: int, blocks: int, random: np.random.Generator, ran: tuple[Array, Array]
    ) -> None:
        groups = self._groups(machine, first, blocks, random)
        while True:
            for lanes in groups:
                self._run_to_barrier(lanes, ran)
            waiting = np.empty((blocks, machine.program.threads), np.int64)
            for lanes in groups:
                waiting[lanes.block, lanes.thread] = lanes.resume
            together = waiting.min(1)
            if (together != waiting.max(1)).any():
                raise Trap(f"{self.program.name}: a barrier is reached by a part of a block")
            meeting = together >= 0
            if not meeting.any():
                return
            machine.launch.barriers += int(meeting.sum())
            machine.shared.barrier(meeting)
            for lanes in groups:
                released = lanes.resume >= 0
                lanes.pc[released] = lanes.resume[released]
                lanes.resume[:] = -1

    def _groups(self, machine: Machine, first: int, blocks: int, random: np.random.Generator) -> list[Lanes]:
        """One group for all warps or, with barriers, up to TURNS: those that run first, second, … in their block."""
        warps = self.program.threads // WARP
        if not self.program.has_barriers:
            block = np.repeat(np.arange(blocks), self.program.threads)
            return [Lanes(machine, first, block, np.tile(np.arange(self.program.threads), blocks))]
        order = random.permuted(np.tile(np.arange(warps), (blocks, 1)), axis=1)
        groups = []
        for turn in np.array_split(order, min(TURNS, warps), axis=1):  # (blocks, warps of this turn)
            thread = turn.reshape(-1, 1) * WARP + np.arange(WARP)
            block = np.repeat(np.arange(blocks), turn.shape[1] * WARP)
            groups.append(Lanes(machine, first, block, thread.reshape(-1)))
        return groups

    def _run_to_barrier(self, lanes: Lanes, ran: tuple[Array, Array]) -> None:
        while (now := int(lanes.pc.min())) < self.done:
            here = lanes.pc == now
            if self.blocks[now].meets and not here.all():
                now, here = self._ready(lanes)
            lanes.active = None if here.all() else here
            ran[0][now] += int(here.sum())
            ran[1][now] += int(here.reshape(-1, WARP).any(1).sum())
            block = self.blocks[now]
            for instruction, step in block.steps:
                self._do(lanes, instruction, step)
            self._leave(lanes, now, block.end)

    def _ready(self, lanes: Lanes) -> tuple[int, Array]:
        """The lowest basic block with lanes that need not wait for others of their warp, and these lanes."""
        running = lanes.pc < self.done
        for now in np.unique(lanes.pc[running]).tolist():
            here = lanes.pc == now
            if self.blocks[now].meets:
                elsewhere = (running & ~here).reshape(-1, WARP).any(1)
                here &= ~np.repeat(elsewhere, WARP)
            if here.any():
                return now, here
        raise Trap(f"{self.program.name}: lanes of a warp wait for each other at different instructions")

    def _do(self, lanes: Lanes, instruction: Instruction, step: Step) -> None:
        try:
            mask = lanes.active if instruction.guard is None else self._guarded(lanes, instruction.guard)
            if mask is None or mask.any():
                step(lanes, mask)
        except Trap as error:
            raise Trap(f"{self._where(instruction)}: {error}") from None

    @staticmethod
    def _guarded(lanes: Lanes, guard: Register) -> Mask:
        lanes.require(guard, lanes.active, "a predicate")
        mask = lanes.full(guard, TYPES["pred"])
        return mask if lanes.active is None else mask & lanes.active

    def _leave(self, lanes: Lanes, now: int, end: Instruction | None) -> None:
        """Set the program counters of the active lanes after the basic block `now`."""
        here = np.ones(lanes.lanes, bool) if lanes.active is None else lanes.active
        if end is None:
            lanes.pc[here] = now + 1
            return
        taken: Mask = here
        if end.guard is not None:
            try:
                taken = self._guarded(lanes, end.guard)
            except Trap as error:
                raise Trap(f"{self._where(end)}: {error}") from None
        assert taken is not None
        lanes.pc[here] = now + 1
        if end.opcode.startswith("bra"):
            (target,) = end.operands
            assert isinstance(target, Name)
            lanes.pc[taken] = self.program.labels[target.text]
        elif is_block_barrier(end.opcode):
            lanes.pc[taken] = self.done
            lanes.resume[taken] = now + 1
        else:
            lanes.pc[taken] = self.done

    def _count(self, launch: Launch, threads: Array, warps: Array) -> None:
        for block, by_threads, by_warps in zip(self.program.blocks, threads.tolist(), warps.tolist(), strict=True):
            launch.thread_instructions += by_threads * len(block)
            launch.warp_instructions += by_warps * len(block)
            for instruction in block if by_warps else ():
                launch.opcodes[instruction.opcode] += by_warps


def load(ptx: str) -> Kernel:
    """The kernel of a PTX module, resolved once."""
    if ptx not in _kernels:
        _kernels[ptx] = Kernel(parse(ptx))
    return _kernels[ptx]


def run_ptx(
    ptx: str,
    arguments: Sequence[Array | int | float],
    grid: tuple[int, int, int] = (1, 1, 1),
    shared_bytes: int = 0,
    seed: int = 0,
) -> Launch:
    """Run hand-made or compiled PTX; an argument that is a contiguous array is memory, which the kernel may change."""
    kernel, memory = load(ptx), Memory()
    values: list[int | float] = []
    for i, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            memory.add(argument.ctypes.data, argument.nbytes, f"argument {i}")
            values.append(argument.ctypes.data)
        else:
            values.append(argument)
    launch = Launch(kernel.program.name, "", grid, kernel.program.threads, shared_bytes)
    kernel.run(grid, values, memory, launch, seed)
    return launch
