"""Global memory: the regions of the host's memory that a launch was given, and traps for everything else."""

import ctypes

import numpy as np

from .trap import Trap
from .values import UNSIGNED, Array


class Memory:
    """Addresses are the host's. A region is the storage of one argument; an access must lie in one."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, str, Array]] = []  # start, end, name, bytes; ascending

    def add(self, start: int, size: int, name: str) -> None:
        """Let `size` bytes at the host's address `start` be read and written."""
        if size and not any(s <= start and start + size <= e for s, e, _, _ in self._regions):
            content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
            self._regions.append((start, start + size, name, content))
            self._regions.sort(key=lambda region: region[0])

    def load(self, address: Array, size: int) -> Array:
        out = np.empty(address.shape, UNSIGNED[size])
        for where, elements, at in self._find(address, size):
            out[where] = elements[at]
        return out

    def store(self, address: Array, value: Array, size: int) -> None:
        for where, elements, at in self._find(address, size):
            elements[at] = value[where]
            if (elements[at] != value[where]).any():
                raise Trap("two lanes write different values to one address")

    def _find(self, address: Array, size: int) -> list[tuple[Array | slice, Array, Array]]:
        """(lanes, elements of their region, places in it) for each region that an address lies in."""
        if not address.size:
            return []
        starts = np.array([region[0] for region in self._regions], np.uint64)
        first, last = (int(np.searchsorted(starts, each, side="right")) - 1 for each in (address.min(), address.max()))
        if first == last >= 0 and int(address.max()) + size <= self._regions[first][1]:
            return [(slice(None), *self._elements(first, address, size))]
        owner = np.searchsorted(starts, address, side="right") - 1
        ends = np.array([region[1] for region in self._regions], np.uint64)
        outside = (owner < 0) | (address > ends[owner] - np.uint64(size))
        if outside.any():
            raise Trap(self._describe(address[outside], size))
        return [
            (lanes, *self._elements(region, address[lanes], size))
            for region in map(int, np.unique(owner))
            for lanes in [owner == region]
        ]

    def _elements(self, region: int, address: Array, size: int) -> tuple[Array, Array]:
        start, _, _, content = self._regions[region]
        skipped = -start % size  # addresses are aligned, the region need not be
        elements = content[skipped : skipped + (len(content) - skipped) // size * size].view(UNSIGNED[size])
        return elements, ((address - np.uint64(start + skipped)) // np.uint64(size)).astype(np.int64)

    def _describe(self, outside: Array, size: int) -> str:
        first = int(outside[0])
        if not self._regions:
            return f"{len(outside)} lanes out of bounds: there is no global memory"
        start, end, name, _ = min(self._regions, key=lambda r: min(abs(first - r[0]), abs(first + size - r[1])))
        return (
            f"{len(outside)} lanes out of bounds; the first is {first - start} bytes from the start and {end - first} "
            f"before the end of {name}, and takes {size}"
        )
