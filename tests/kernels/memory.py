"""The memory that a kernel launch may touch: out-of-bounds accesses and races, found address by address."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

NOBODY, MANY = -1, -2


class OutOfBounds(Exception):
    """A kernel addressed something that is not an element of a tensor it was given."""


class Race(Exception):
    """The result of a kernel depends on the order in which its programs run."""


class Memory:
    """The elements one launch may address, with the program that wrote and the programs that read each."""

    def __init__(self, arguments: Iterable[Any]) -> None:
        found = [_element_addresses(t) for t in _tensors(arguments) if t.numel()]
        self.addresses = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        self.writer = np.full(self.addresses.shape, NOBODY)
        self.reader = np.full(self.addresses.shape, NOBODY)

    def find(self, pointers: np.ndarray, mask: np.ndarray, what: str, program: tuple[int, ...]) -> np.ndarray:
        """Positions in `addresses` of the active lanes."""
        lanes, active = np.broadcast_arrays(pointers, np.asarray(mask, dtype=bool))
        wanted = lanes[active].astype(np.int64)
        at = np.searchsorted(self.addresses, wanted)
        inside = at < self.addresses.size
        inside[inside] = self.addresses[at[inside]] == wanted[inside]
        if not inside.all():
            raise OutOfBounds(
                f"{what}: {np.count_nonzero(~inside)} of {wanted.size} active addresses are not elements of "
                f"any tensor argument, in program {program}"
            )
        return at

    def read(self, at: np.ndarray, program: int) -> None:
        if np.any((self.writer[at] != NOBODY) & (self.writer[at] != program)):
            raise Race(f"program {program} reads what another program wrote")
        self.reader[at] = np.where((self.reader[at] == NOBODY) | (self.reader[at] == program), program, MANY)

    def write(self, at: np.ndarray, program: int) -> None:
        if np.unique(at).size != at.size:
            raise Race(f"two lanes of one store in program {program} share an address")
        for others, did in ((self.writer[at], "wrote"), (self.reader[at], "read")):
            if np.any((others != NOBODY) & (others != program)):
                raise Race(f"program {program} stores where another program {did}")
        self.writer[at] = program


def _tensors(arguments: Iterable[Any]) -> Iterator[torch.Tensor]:
    for argument in arguments:
        argument = getattr(argument, "base", argument) if not isinstance(argument, torch.Tensor) else argument
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, (tuple, list)):
            yield from _tensors(argument)


def _element_addresses(tensor: torch.Tensor) -> np.ndarray:
    """Addresses of exactly the elements of a view: the gaps of a sliced tensor are out of bounds."""
    offsets = np.zeros((1,) * tensor.ndim, dtype=np.int64)
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        shape = [1] * tensor.ndim
        shape[dim] = size
        if stride:  # every element of an expanded dimension has the same address
            offsets = offsets + stride * np.arange(size).reshape(shape)
    return tensor.data_ptr() + tensor.element_size() * offsets.ravel()
