"""Shared memory of a chunk of blocks, with a shadow that knows who wrote and read each byte since the last barrier."""

import numpy as np

from .trap import Trap
from .values import UNSIGNED, Array

NEVER, UNDEFINED, WRITTEN = 0, 1, 3  # what a byte of the shadow `state` says of a byte; a value nobody wrote is copied


class Shared:
    """Bytes of (blocks, bytes). Two warps that meet at a byte, one of them writing, need a barrier in between."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        padded = -(-size // 16) * 16
        self._content = np.zeros((blocks, padded), np.uint8)
        self._state = np.zeros((blocks, padded), np.uint8)
        self._writer = np.zeros((blocks, padded), np.uint8)  # 1 + warp, or 0
        self._reader = np.zeros((blocks, padded), np.uint8)  # the same; 255 for more than one

    def load(self, block: Array, address: Array, warp: Array, size: int) -> tuple[Array, Array | None]:
        """(values, lanes that read a value which depends on nothing written, or None)."""
        at = self._at(block, address, size)
        state, whole = self._typed(self._state, size)[at], _repeated(WRITTEN, size)
        undefined = None
        if (state != whole).any():
            if (_bytes(state, size) == NEVER).any():
                raise Trap("reads shared memory that nobody wrote")
            undefined = state != whole
        self._meet(self._typed(self._writer, size)[at], warp, size, "reads what warp {} wrote")
        readers = self._typed(self._reader, size)
        own, before = _repeated(warp + 1, size), readers[at]
        readers[at] = own  # of lanes that share an address one is kept, as far as the next line does not object
        several = ((before != 0) & (before != own)) | (readers[at] != own)
        if several.any():
            readers[block[several], address[several] // size] = _repeated(255, size)
        return self._typed(self._content, size)[at], undefined

    def store(
        self, block: Array, address: Array, warp: Array, value: Array, size: int, undefined: Array | None = None
    ) -> None:
        at = self._at(block, address, size)
        own = _repeated(warp + 1, size)
        content, writers = self._typed(self._content, size), self._typed(self._writer, size)
        self._meet(self._typed(self._reader, size)[at], warp, size, "writes what warp {} read")
        before = writers[at]
        differs = content[at] != value
        self._meet(np.where(differs, before, 0), warp, size, "writes what warp {} wrote")
        content[at] = value
        writers[at] = own
        if (content[at] != value).any():
            raise Trap("two lanes write different values to one address")
        state = self._typed(self._state, size)
        state[at] = _repeated(WRITTEN, size)
        if undefined is not None and undefined.any():
            state[block[undefined], address[undefined] // size] = _repeated(UNDEFINED, size)

    def barrier(self, blocks: Array) -> None:
        """All warps of these blocks have met."""
        self._writer[blocks] = 0
        self._reader[blocks] = 0

    def _at(self, block: Array, address: Array, size: int) -> tuple[Array, Array]:
        if address.size and (int(address.min()) < 0 or int(address.max()) + size > self.size):
            raise Trap(f"{size} bytes at {int(address.max())} of {self.size} bytes of shared memory: out of bounds")
        return block, address // size

    @staticmethod
    def _typed(of: Array, size: int) -> Array:
        return of.view(UNSIGNED[size])

    @staticmethod
    def _meet(others: Array, warp: Array, size: int, what: str) -> None:
        """Trap if a byte was last touched by another warp since the barrier."""
        own = _repeated(warp + 1, size)
        if not ((others != 0) & (others != own)).any():
            return
        found = _bytes(others, size)
        foreign = (found != 0) & (found != (warp + 1).astype(np.uint8)[:, None])
        if foreign.any():
            lane = int(np.flatnonzero(foreign.any(1))[0])
            other = int(found[lane][foreign[lane]][0])
            name = "several" if other == 255 else str(other - 1)
            raise Trap(f"no barrier in between: warp {int(warp[lane])} {what.format(name)}")


def _repeated(value: Array | int, size: int) -> Array:
    """The byte in every byte of an element."""
    pattern = UNSIGNED[size].type(int.from_bytes(b"\x01" * size, "little"))
    return np.asarray(value, UNSIGNED[size]) * pattern


def _bytes(values: Array, size: int) -> Array:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, size)
