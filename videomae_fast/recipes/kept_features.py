"""Features of a frozen tower: computed once, kept in files, and read instead of running the tower.

A frozen tower gives a caption, or a clip, the same features in every step. So a run of many epochs computes them once,
and later runs with the same tower and data read them.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import atomic_write, disk_errors, partial_path, writable_folder
from .._json import parse_json, read_text
from .._lock import lock_output
from .._text import printable

KEY, IDS = "key.json", "ids.npy"
Rows = Mapping[str, np.ndarray]  # by name, arrays of n rows on disk


class KeptFeatures:
    """Rows of float32 by the ids of what they are features of.

    <folder>/key.json holds all that decides the features, ids.npy the ids in ascending order, and <name>.npy a row for
    each. key.json is written last: without it the files are not whole. Rows are not held in memory; the operating
    system reads the pages that are asked for.

    Args:
        folder: of the files; `prepare` makes them.
        key: what decides the features: weights, data, settings; values that JSON can hold.
        kind: what they are, for messages: "text" or "video".
    """

    def __init__(self, folder: Path, key: dict[str, Any], kind: str) -> None:
        self.folder, self.key, self.kind = folder, key, kind

    def prepare(
        self,
        ids: np.ndarray,
        shapes: Mapping[str, tuple[int, ...]],
        fill: Callable[[Rows], None],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Open the files, or make them: each process fills a part, and the first one puts the key to them.

        Args:
            ids: (n,) int64, ascending, no two equal.
            shapes: of a row of each array, by its name.
            fill: writes the rows of this process into the arrays (n, …), which are zeros.
            rank: of this process.
            world_size: processes of the run, all of which call this.

        Raises:
            ValueError: the folder holds features of another key, which the message tells; it is damaged, or cannot be
                written; or another run writes to it.
            OSError: the disk is full or broken.
        """
        found = self._is_complete()
        _wait(world_size)  # before the first process writes
        if not found:
            with ExitStack() as stack:
                if rank == 0:
                    writable_folder(self.folder)
                    stack.enter_context(lock_output(self.folder))
                self._make(ids, shapes, fill, rank, world_size)
        self._open(len(ids), shapes)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows by their ids.

        Args:
            name: of the array.
            ids: (B,) int64 on the host.

        Returns:
            (B, …) float32 on the host.

        Raises:
            ValueError: there is no row of an id.
        """
        places = np.searchsorted(self.ids, ids.numpy()).clip(max=len(self.ids) - 1)
        if (self.ids[places] != ids.numpy()).any():
            raise ValueError(f"{self.folder} has no {self.kind} features of a pair of this batch: data have changed")
        return torch.from_numpy(self.arrays[name][places])

    def _is_complete(self) -> bool:
        path = self.folder / KEY
        if not path.is_file():
            return False
        try:
            found = parse_json(read_text(path))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}. Delete the folder, or name another") from error
        known = found if isinstance(found, dict) else {}
        differing = [
            f"{name}: was {known.get(name)!r}, now {value!r}"
            for name, value in self.key.items()
            if known.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the {self.kind} features in {self.folder} are of another run: {printable('; '.join(differing))}. "
                f"Name another folder with {self.kind}_features, or delete this one"
            )
        return True

    def _make(
        self,
        ids: np.ndarray,
        shapes: Mapping[str, tuple[int, ...]],
        fill: Callable[[Rows], None],
        rank: int,
        world_size: int,
    ) -> None:
        partial = {name: partial_path(self._path(name)) for name in shapes}
        if rank == 0:
            with disk_errors(self.folder / KEY):
                for name, shape in shapes.items():
                    np.lib.format.open_memmap(partial[name], "w+", np.float32, (len(ids), *shape)).flush()
        _wait(world_size)
        rows = {name: np.lib.format.open_memmap(path, mode="r+") for name, path in partial.items()}
        fill(rows)
        with disk_errors(self.folder / KEY):
            for array in rows.values():
                array.flush()
        del rows
        _wait(world_size)
        if rank == 0:
            with disk_errors(self.folder / KEY):
                for name, path in partial.items():
                    path.replace(self._path(name))
                with atomic_write(self.folder / IDS) as part, open(part, "wb") as file:
                    np.save(file, ids)
                with atomic_write(self.folder / KEY) as part:
                    part.write_text(json.dumps(self.key, indent=1) + "\n", encoding="utf-8")
        _wait(world_size)

    def _open(self, count: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        try:
            self.ids = np.load(self.folder / IDS, allow_pickle=False)
            self.arrays = {name: np.load(self._path(name), mmap_mode="r", allow_pickle=False) for name in shapes}
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"the {self.kind} features in {self.folder} are damaged: {error}; delete the folder"
            ) from error
        expected = {"ids": (count,)} | {name: (count, *shape) for name, shape in shapes.items()}
        found = {name: array.shape for name, array in {"ids": self.ids, **self.arrays}.items()}
        if found != expected:
            raise ValueError(
                f"the {self.kind} features in {self.folder} are damaged: their shapes are {found}, expected {expected}"
                "; delete the folder"
            )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _wait(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
