"""A data set in memory: its videos, the place of each, its label, and the names of its classes."""

import copy
import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..._text import printable
from .classes import NO_CLASS, ClassNumbers, unknown_class

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
        class_name: name of the class; empty for none. A row with a name has no number.
    """

    path: str
    start: int = 0
    total: int = -1
    size: int = 0
    member: str = ""
    label: int = _NO_LABEL
    class_name: str = ""

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

    def name(self) -> str:
        """The name of the video in messages.

        Returns:
            The path, and the member's name if there is one.
        """
        return self.entry().name

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
        class_names: the name of each class, so that label k is class_names[k]. Empty if labels are only numbers, or
            names were not asked for.
    """

    def __init__(self, entries: Iterable[VideoEntry], root: str | os.PathLike = "") -> None:
        self._fill(map(Row.of, entries), root, None)

    @classmethod
    def from_rows(cls, rows: Iterable[Row], root: str | os.PathLike = "", labelled: bool = False) -> "Annotations":
        """Build the arrays from the rows of a list.

        Args:
            rows: taken one by one, so that a long list is never held as Python objects.
            root: folder that relative paths are joined to.
            labelled: whether every row must have a class. Class names are then kept, and number the classes in sorted
                order. Otherwise names are ignored.

        Returns:
            The data set. Its fingerprint covers all numbers of `rows`, also numbers that no entry uses.

        Raises:
            ValueError: `labelled`, and a video has no class, or some have numbers and others have names.
        """
        annotations = cls.__new__(cls)
        annotations._fill(rows, root, ClassNumbers(root) if labelled else None)
        return annotations

    def numbered_by(self, class_names: Sequence[str]) -> "Annotations":
        """The same videos, each with the number that its class has in a list of names.

        Args:
            class_names: the name of each class. A video with a class number and no name keeps its number.

        Returns:
            The data set; it shares the arrays of the videos.

        Raises:
            ValueError: a video has no class, or one that is not in the list.
        """
        labels = self.labels
        if (labels < 0).any():
            raise ValueError(f"{printable(self[int(labels.argmin())].name)} has no class: {NO_CLASS}")
        if self.class_names:
            number_of = {name: number for number, name in enumerate(class_names)}
            numbers = np.array([number_of.get(name, _NO_LABEL) for name in self.class_names])[labels]
        else:
            numbers = np.where(labels < len(class_names), labels, _NO_LABEL)
        if (numbers < 0).any():
            video = int(numbers.argmin())
            unknown = self.class_names[labels[video]] if self.class_names else int(labels[video])
            raise ValueError(f"{printable(self[video].name)} has {unknown_class(unknown, class_names)}")
        numbered = copy.copy(self)
        numbered._labels, numbered.class_names = numbers, tuple(class_names)
        return numbered

    def _fill(self, rows: Iterable[Row], root: str | os.PathLike, classes: ClassNumbers | None) -> None:
        names, ends, numbers, labels = bytearray(), array("q"), array("q"), array("q")
        for row in rows:
            path, start, total, size, member, label, _ = row
            names += os.fsencode(path)
            ends.append(len(names))
            names += os.fsencode(member)
            ends.append(len(names))
            numbers.extend((start, total, size))
            labels.append(label if classes is None else classes.number(label, row.class_name, row.name))
        self.root = os.fspath(root)
        self._names = np.frombuffer(names, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)
        self._numbers = np.array(numbers, dtype=np.int64).reshape(-1, 3)
        kept = np.array(labels, dtype=np.int64)
        self.class_names: tuple[str, ...] = ()
        if classes is not None:
            kept, self.class_names = classes.in_order(kept)
        self._labels = kept if (kept >= 0).any() else kept[:0].copy()  # empty if no video has a label

    @property
    def has_labels(self) -> bool:
        """Whether any video has a label."""
        return len(self._labels) > 0

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, the class number of each video, -1 for none."""
        return self._labels if self.has_labels else np.full(len(self), _NO_LABEL)

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
