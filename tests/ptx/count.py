"""What a launch did, counted: instructions, memory requests, sectors, and shared-memory wavefronts."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .values import Array

WARP = 32
SECTOR_BITS, WORD_BITS = 5, 2  # 32 bytes are fetched at once; a bank of shared memory is 4 bytes wide
BANKS = 32
NOTHING = np.uint64(2**64 - 1)


@dataclass
class Requests:
    """Accesses of one kind. A request is one instruction of one warp with at least one active lane.

    `sectors` (global memory) are the distinct 32-byte sectors of each request, summed. `wavefronts` (shared memory) are
    the passes that a request takes if a bank serves one 4-byte word a pass, `least` those it would take without
    conflicts, by NVIDIA's published model: 8- and 16-byte accesses are served half and quarter warp by half and
    quarter warp. The wavefront counter has not been compared with a GPU's.
    """

    requests: int = 0
    bytes: int = 0
    sectors: int = 0
    wavefronts: int = 0
    least: int = 0

    def __add__(self, other: "Requests") -> "Requests":
        return Requests(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Launch:
    """One launch of one kernel. Instructions that a predicate switches off are counted: they are issued."""

    kernel: str
    target: str
    grid: tuple[int, int, int]
    threads: int  # of a block
    shared_bytes: int  # of a block
    thread_instructions: int = 0
    warp_instructions: int = 0
    barriers: int = 0  # of whole blocks
    opcodes: Counter[str] = field(default_factory=Counter)  # warp instructions by opcode
    global_loads: Requests = field(default_factory=Requests)
    global_stores: Requests = field(default_factory=Requests)
    shared_loads: Requests = field(default_factory=Requests)
    shared_stores: Requests = field(default_factory=Requests)

    @property
    def blocks(self) -> int:
        return int(np.prod(self.grid, dtype=np.int64))

    def requests(self, space: str, write: bool) -> Requests:
        found = getattr(self, f"{space}_{'stores' if write else 'loads'}")
        assert isinstance(found, Requests)
        return found

    def count(self, space: str, write: bool, addresses: Array, active: Array, size: int) -> None:
        """One access of `size` bytes by each active lane; addresses are aligned to `size`."""
        table, lanes = self.requests(space, write), active.reshape(-1, WARP)
        asked = lanes.any(1)
        table.requests += int(asked.sum())
        table.bytes += int(active.sum()) * size
        address = addresses.astype(np.uint64).reshape(-1, WARP)[asked]
        if space == "global":
            table.sectors += _distinct(np.where(lanes[asked], address >> np.uint64(SECTOR_BITS), NOTHING))
        else:
            wavefronts, least = _wavefronts(address, lanes[asked], size)
            table.wavefronts += wavefronts
            table.least += least


def _distinct(rows: Array) -> int:
    """Distinct values of each row, NOTHING apart, summed."""
    ordered = np.sort(rows, axis=1)
    new = (ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] != NOTHING)
    return int(new.sum() + (ordered[:, 0] != NOTHING).sum())


def _wavefronts(address: Array, active: Array, size: int) -> tuple[int, int]:
    """(passes, passes without conflicts) of the warps."""
    together = {8: 16, 16: 8}.get(size, WARP)  # lanes that are served at once
    words = (address >> np.uint64(WORD_BITS))[..., None] + np.arange(max(1, size // 4), dtype=np.uint64)
    words = np.where(active[..., None], words, NOTHING).reshape(len(address) * (WARP // together), -1)
    ordered = np.sort(words, axis=1)
    new = ordered != NOTHING
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    phase, _ = np.nonzero(new)
    bank = phase * BANKS + (ordered[new] % np.uint64(BANKS)).astype(np.int64)
    load = np.bincount(bank, minlength=len(ordered) * BANKS).reshape(-1, BANKS)
    return int(load.max(1).sum()), int(new.any(1).sum())
