"""The registers of lanes that run in lockstep, and which of their lanes nobody has written yet.

A value that nobody wrote may be copied and combined, as compilers do with lanes whose result is not used; where it
decides something (an address, a branch, what is stored in global memory), the reader of `undefined` traps.
"""

from collections.abc import Iterable

import numpy as np

from .parse import SINK, Immediate, Operand, Register
from .trap import Trap
from .values import UNSIGNED, Array, bits

BOOL = np.dtype(bool)
Mask = Array | None  # None: all lanes


class Registers:
    """Arrays are never changed in place, so that a move is a second reference; one element stands for all lanes."""

    def __init__(self, widths: list[int], lanes: int) -> None:
        self.widths, self.lanes = widths, lanes
        self.values: list[Array | None] = [None] * len(widths)
        self.unwritten: dict[int, Array] = {}  # of registers of which some lanes are written, and some not
        self._constants: dict[tuple[int, str], Array] = {}

    def read(self, operand: Operand, dtype: np.dtype) -> Array:
        if isinstance(operand, Immediate):
            return self._constant(operand.bits, dtype)
        if not isinstance(operand, Register):
            raise Trap(f"{operand} is no value")
        value = self.values[operand.number]
        if value is None:
            return np.zeros(1, dtype)
        if value.dtype == BOOL or dtype == BOOL:
            if value.dtype != dtype:
                raise Trap(f"a predicate where {dtype} is meant, or the reverse")
            return ~value if operand.negated else value
        if value.dtype.itemsize == dtype.itemsize:
            return value.view(dtype)
        if value.dtype.itemsize < dtype.itemsize:
            raise Trap(f"a register of {value.dtype.itemsize} bytes read as {dtype}")
        return value.astype(UNSIGNED[dtype.itemsize]).view(dtype)

    def full(self, operand: Operand, dtype: np.dtype) -> Array:
        """One element a lane."""
        return np.broadcast_to(self.read(operand, dtype), (self.lanes,))

    def write(self, operand: Operand, value: Array, mask: Mask, undefined: Array | None = None) -> None:
        """Set the lanes in `mask`; of them, those in `undefined` count as not written."""
        if not isinstance(operand, Register):
            raise Trap(f"{operand} is no register")
        number = operand.number
        if number == SINK:
            return
        value = self._widened(value, self.widths[number])
        old = self.values[number]
        if mask is None:
            missing = undefined
            self.values[number] = value
        else:
            before = self.undefined(operand)
            missing = None if before is None else before & ~mask
            if undefined is not None:
                missing = undefined & mask if missing is None else missing | (undefined & mask)
            rest = np.zeros(1, value.dtype) if old is None else old
            self.values[number] = np.where(mask, value, rest)
        if missing is not None and missing.any():
            self.unwritten[number] = np.broadcast_to(missing, (self.lanes,))
        else:
            self.unwritten.pop(number, None)

    def undefined(self, operand: Operand) -> Array | None:
        """The lanes of a register that nobody wrote; None if there are none."""
        if not isinstance(operand, Register) or operand.number == SINK:
            return None
        if self.values[operand.number] is None:
            return np.ones(self.lanes, bool)
        return self.unwritten.get(operand.number)

    def any_undefined(self, operands: Iterable[Operand]) -> Array | None:
        """The lanes in which one of several registers is not written."""
        found = None
        for operand in operands:
            one = self.undefined(operand)
            if one is not None:
                found = one if found is None else found | one
        return found

    def require(self, operand: Operand, mask: Mask, what: str) -> None:
        """Trap if the value of an active lane was never written."""
        missing = self.undefined(operand)
        if missing is not None and (missing if mask is None else missing & mask).any():
            raise Trap(f"{what} depends on a register that nobody wrote")

    def _constant(self, value: int, dtype: np.dtype) -> Array:
        key = (value, dtype.str)
        found = self._constants.get(key)
        if found is None:
            if dtype == BOOL:
                found = np.array([value != 0])
            else:
                found = np.array([value & ((1 << 8 * dtype.itemsize) - 1)], UNSIGNED[dtype.itemsize]).view(dtype)
            self._constants[key] = found
        return found

    @staticmethod
    def _widened(value: Array, width: int) -> Array:
        """As unsigned bits of the register's width; signed values keep their sign."""
        if (value.dtype == BOOL) != (width == 0):
            raise Trap("a predicate where a number is meant, or the reverse")
        if width == 0 or value.dtype.itemsize == width:
            return bits(value)
        if value.dtype.itemsize > width:
            raise Trap(f"{value.dtype} does not fit a register of {width} bytes")
        if value.dtype.kind == "i":
            return bits(value.astype(np.dtype(f"i{width}")))
        return bits(value).astype(UNSIGNED[width])
