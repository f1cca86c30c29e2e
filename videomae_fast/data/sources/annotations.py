"""A data set in memory: its videos, the place of each, and its label."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_NO_LABEL = -1


class VideoFile(NamedTuple):
    """A video file.

    Attributes:
        path: the file.
        label: class number, at least 0; None if the list has none.
    """

    path: str
    label: int | None = None

    @property
    def name(self) -> str:
        """The name of the video in messages."""
        return self.path


class TarMember(NamedTuple):
    """A video inside an uncompressed tar file, read in place.

    Attributes:
        path: the tar file.
        member: the video's name in the tar file.
        start: byte of the tar file at which the video begins.
        size: bytes of the video.
        label: class number, at least 0; None if the list has none.
    """

    path: str
    member: str
    start: int
    size: int
    label: int | None = None

    @property
    def name(self) -> str:
        """The name of the video in messages."""
        return f"{self.path}/{self.member}"


class FrameFolder(NamedTuple):
    """A folder with one image per frame.

    Attributes:
        path: the folder.
        start: number of the first image.
        num_frames: number of images.
        label: class number, at least 0; None if the list has none.
    """

    path: str
    start: int
    num_frames: int
    label: int | None = None

    @property
    def name(self) -> str:
        """The name of the video in messages."""
        return self.path


VideoEntry = VideoFile | TarMember | FrameFolder


class Row(NamedTuple):
    """Any entry as the arrays of `Annotations` hold it, in the terms of VideoMAE V2's lists.

    Attributes:
        path: a video file, a tar file or a folder of frames.
        start: number of the first image of a folder, or first byte of a member of a tar file.
        total: number of images of a folder; negative for a video.
        size: bytes of a member of a tar file.
        member: name of a member of a tar file; empty for anything else.
        label: class number; negative for none.
    """

    path: str
    start: int = 0
    total: int = -1
    size: int = 0
    member: str = ""
    label: int = _NO_LABEL

    @classmethod
    def of(cls, entry: VideoEntry) -> "Row":
        """Make the row of an entry.

        Args:
            entry: a video.

        Returns:
            The row that holds it.
        """
        label = _NO_LABEL if entry.label is None else entry.label
        if isinstance(entry, FrameFolder):
            return cls(entry.path, entry.start, entry.num_frames, label=label)
        if isinstance(entry, TarMember):
            return cls(entry.path, entry.start, size=entry.size, member=entry.member, label=label)
        return cls(entry.path, label=label)

    def entry(self) -> VideoEntry:
        """Read the row.

        Returns:
            The entry that it holds.
        """
        label = None if self.label < 0 else self.label
        if self.total >= 0:
            return FrameFolder(self.path, self.start, self.total, label)
        if self.member:
            return TarMember(self.path, self.member, self.start, self.size, label)
        return VideoFile(self.path, label)


class Annotations(Sequence[VideoEntry]):
    """Read-only sequence of the videos of a data set, held in four arrays.

    A Python list of a million tuples is copied page by page into every forked worker, because reading an object
    writes its reference count. Arrays stay shared.

    Args:
        entries: the videos.
        root: folder that relative paths are joined to.

    Attributes:
        root: as given.
    """

    def __init__(self, entries: Iterable[VideoEntry], root: str | os.PathLike = "") -> None:
        self._fill(map(Row.of, entries), root)

    @classmethod
    def from_rows(cls, rows: Iterable[Row], root: str | os.PathLike = "") -> "Annotations":
        """Build the arrays from the rows of a list.

        Args:
            rows: taken one by one, so that a long list is never held as Python objects.
            root: folder that relative paths are joined to.

        Returns:
            The data set. Its fingerprint covers all numbers of `rows`, also numbers that no entry uses.
        """
        annotations = cls.__new__(cls)
        annotations._fill(rows, root)
        return annotations

    def _fill(self, rows: Iterable[Row], root: str | os.PathLike) -> None:
        names, ends, numbers, labels = bytearray(), array("q"), array("q"), array("q")
        for path, start, total, size, member, label in rows:
            names += os.fsencode(path)
            ends.append(len(names))
            names += os.fsencode(member)
            ends.append(len(names))
            numbers.extend((start, total, size))
            labels.append(label)
        self.root = os.fspath(root)
        self._names = np.frombuffer(names, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)
        self._numbers = np.array(numbers, dtype=np.int64).reshape(-1, 3)
        kept = np.array(labels, dtype=np.int64)
        self._labels = kept if (kept >= 0).any() else kept[:0].copy()  # empty if no video has a label

    @property
    def has_labels(self) -> bool:
        """Whether any video has a label."""
        return len(self._labels) > 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> VideoEntry:  # type: ignore[override]  # no slices
        """Video `index`, its path joined to `root`; IndexError if there is none."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} annotations")
        index = int(index) % len(self)
        path, member = self._name(2 * index), self._name(2 * index + 1)
        label = int(self._labels[index]) if self.has_labels else _NO_LABEL
        start, total, size = self._numbers[index].tolist()
        return Row(os.path.join(self.root, path), start, total, size, member, label).entry()

    def fingerprint(self) -> str:
        """A digest of the videos and their order; labels do not count.

        Returns:
            16 hexadecimal digits: equal for the same videos in the same order, also if the folder that holds them all
            has moved.
        """
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
