"""A data set in memory: which videos there are, and where."""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class VideoEntry(NamedTuple):
    """One video. `total >= 0`: `path` is a folder of `total` images numbered from `start`. Otherwise it is a video
    file or, where `member` is not empty, a tar file that holds a video of that name: `size` bytes from byte `start`."""

    path: str
    start: int = 0
    total: int = -1
    size: int = 0
    member: str = ""


class Annotations(Sequence[VideoEntry]):
    """Read-only sequence of `VideoEntry`, held in three arrays.

    A Python list of a million tuples is copied page by page into every forked worker, because reading an object
    writes its reference count; arrays stay shared.
    """

    def __init__(self, entries: Sequence[VideoEntry], root: str | os.PathLike = "") -> None:
        names = [os.fsencode(name) for entry in entries for name in (entry.path, entry.member)]
        self.root = os.fspath(root)
        self._names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._numbers = np.array([(e.start, e.total, e.size) for e in entries], dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> VideoEntry:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} annotations")
        index = int(index) % len(self)
        path, member = self._name(2 * index), self._name(2 * index + 1)
        start, total, size = self._numbers[index].tolist()
        return VideoEntry(os.path.join(self.root, path), start, total, size, member)

    def fingerprint(self) -> str:
        """Equal for the same videos in the same order, wherever the folder that they all lie in is."""
        paths = range(0, len(self._ends), 2)
        first = min(map(self._name_bytes, paths), default=b"")
        last = max(map(self._name_bytes, paths), default=b"")
        shared = os.fsencode(os.path.commonprefix([first, last]))  # noqa: RUF071  # cut off at a folder's end next
        folder = shared.rfind(b"/") + 1
        digest = hashlib.sha256(self._numbers.tobytes())
        for number in paths:
            digest.update(self._name_bytes(number)[folder:] + b"\0" + self._name_bytes(number + 1) + b"\0")
        return digest.hexdigest()[:16]

    def _name(self, number: int) -> str:
        return os.fsdecode(self._name_bytes(number))

    def _name_bytes(self, number: int) -> bytes:
        begin = self._ends[number - 1] if number else 0
        return self._names[begin : self._ends[number]].tobytes()
