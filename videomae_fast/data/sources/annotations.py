"""A data set in columns: its videos, the place of each, its label, and the names of its classes."""

import copy
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..._text import printable
from .classes import NO_CLASS, ClassNumbers, unknown_class
from .columns import Column, Columns, ColumnsWriter, chunks, pieces, spans

_NO_LABEL = -1
_NUMBERS = ("start", "total", "size", "member_bytes")  # columns that the fingerprint covers, beside the names
_DIGESTED = 16384  # rows at a time
_Videos = TypeVar("_Videos", bound="Annotations")


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
    """Read-only sequence of the videos of a data set, held in a few columns.

    A Python list of a million tuples is copied page by page into every forked worker, because reading an object
    writes its reference count. Columns stay shared. They are in memory, or files that are mapped (`read_annotations`).

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
    def from_rows(
        cls, rows: Iterable[Row], root: str | os.PathLike = "", labelled: bool = False, folder: Path | None = None
    ) -> "Annotations":
        """Build the columns from the rows of a list.

        Args:
            rows: taken a few at a time, so that a long list is never held as Python objects.
            root: folder that relative paths are joined to.
            labelled: whether every row must have a class. Class names are then kept, and number the classes in sorted
                order. Otherwise names are ignored.
            folder: an empty folder for the columns; None: they are in memory.

        Returns:
            The data set. Its fingerprint covers all numbers of `rows`, also numbers that no entry uses.

        Raises:
            ValueError: `labelled`, and a video has no class, or some have numbers and others have names.
            ColumnsError: the folder cannot be written.
        """
        annotations = cls.__new__(cls)
        annotations._fill(rows, root, ClassNumbers(root) if labelled else None, folder)
        return annotations

    @classmethod
    def from_columns(cls: type[_Videos], columns: Columns, root: str | os.PathLike) -> _Videos:
        """A data set whose columns exist.

        Args:
            columns: of a data set of this type.
            root: folder that relative paths are joined to.

        Returns:
            The data set; it shares the columns.
        """
        annotations = cls.__new__(cls)
        annotations._set(columns, root)
        return annotations

    def numbered_by(self, class_names: Sequence[str]) -> "Annotations":
        """The same videos, each with the number that its class has in a list of names.

        Args:
            class_names: the name of each class. A video with a class number and no name keeps its number.

        Returns:
            The data set; it shares the columns.

        Raises:
            ValueError: a video has no class, or one that is not in the list.
        """
        labels = self.labels
        if labels.min() < 0:
            raise ValueError(f"{printable(self[int(labels.argmin())].name)} has no class: {NO_CLASS}")
        numbered = copy.copy(self)
        if self.class_names:
            number_of = {name: number for number, name in enumerate(class_names)}
            numbers = np.array([number_of.get(name, _NO_LABEL) for name in self.class_names])
            absent = np.flatnonzero(numbers < 0)
            unknown = np.isin(labels, absent) if len(absent) else np.zeros(1, bool)
            numbered._label_map = numbers if self._label_map is None else numbers[self._label_map]
        else:
            unknown = labels >= len(class_names) if labels.max() >= len(class_names) else np.zeros(1, bool)
        if unknown.any():
            video = int(unknown.argmax())
            given = self.class_names[labels[video]] if self.class_names else int(labels[video])
            raise ValueError(f"{printable(self[video].name)} has {unknown_class(given, class_names)}")
        numbered.class_names = tuple(class_names)
        return numbered

    def _fill(
        self,
        rows: Iterable[Row],
        root: str | os.PathLike,
        classes: ClassNumbers | None,
        folder: Path | None = None,
    ) -> None:
        videos = VideosWriter(ColumnsWriter(folder), classes)
        for chunk in chunks(rows):
            videos.extend(chunk)
        self._set(Columns(*videos.finish()), root)

    def _set(self, columns: Columns, root: str | os.PathLike) -> None:
        facts = columns.facts
        self.root, self._columns = os.fspath(root), columns
        self.class_names: tuple[str, ...] = tuple(facts["class_names"])
        self._label_map = None if facts["label_map"] is None else np.array(facts["label_map"], dtype=np.int64)
        self._selection = ""  # the column with the numbers of our rows; empty: all rows are ours

    @property
    def columns(self) -> Columns:
        """The columns, of which this data set may be a part."""
        return self._columns

    @property
    def has_labels(self) -> bool:
        """Whether any video has a label."""
        return bool(self._columns.facts["has_labels"])

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, the class number of each video, -1 for none; it may be a read-only view."""
        stored = self._numbers("label")
        return stored if self._label_map is None else self._label_map[stored]

    def __len__(self) -> int:
        return len(self._columns[self._selection or "end"])

    def __getitem__(self, index: int) -> VideoEntry:  # type: ignore[override]  # no slices
        """Video `index`, its path joined to `root`; IndexError if there is none."""
        return self._entry(self._row(index))

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} annotations")
        index = int(index) % len(self)
        return int(self._columns[self._selection][index]) if self._selection else index

    def _entry(self, row: int) -> VideoEntry:
        columns = self._columns
        begin, end = int(columns["end"][row - 1]) if row else 0, int(columns["end"][row])
        name, member_bytes = columns["name"][begin:end].tobytes(), int(columns["member_bytes"][row])
        path, member = name[: len(name) - member_bytes], name[len(name) - member_bytes :]
        label = int(columns["label"][row])
        if self._label_map is not None:
            label = int(self._label_map[label])
        start, total, size = (int(columns[number][row]) for number in ("start", "total", "size"))
        return Row(os.path.join(self.root, os.fsdecode(path)), start, total, size, os.fsdecode(member), label).entry()

    def _numbers(self, name: str) -> np.ndarray:
        return self._columns[name][self._columns[self._selection]] if self._selection else self._columns[name]

    def fingerprint(self) -> str:
        """A digest of the videos and their order; labels do not count.

        Returns:
            16 hexadecimal digits: equal for the same videos in the same order, also if the folder that holds them all
            has moved.
        """
        return self._columns.facts.get("fingerprints", {}).get(self._selection) or self._digest()

    def facts(self) -> dict[str, Any]:
        """What is to be kept with the columns of this data set, so that it need not be found again.

        Returns:
            Values that JSON can hold.
        """
        return {**self._columns.facts, "fingerprints": {"": self._digest()}}

    def _digest(self) -> str:
        folder = self._shared_folder()
        digests = [hashlib.sha256() for _ in range(len(_NUMBERS) + 2)]
        for rows in self._row_chunks():
            begins, ends = spans(self._columns["end"], rows)
            begins += folder
            numbers = [*(self._columns[name][rows] for name in _NUMBERS), ends - begins]
            for digest, values in zip(digests, numbers, strict=False):
                digest.update(values)
            digests[-1].update(pieces(self._columns["name"], begins, ends))
        return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()[:16]

    def _shared_folder(self) -> int:
        """Bytes of the path of the folder that all paths begin with."""
        shared, first = 0, b""
        for number, rows in enumerate(self._row_chunks()):
            begins, ends = spans(self._columns["end"], rows)
            if number == 0:
                first = pieces(self._columns["name"], begins[:1], ends[:1] - self._columns["member_bytes"][rows[:1]])
                shared = len(first)
            shared = min(shared, int((ends - begins - self._columns["member_bytes"][rows]).min()))
            begun = self._columns["name"][begins[:, None] + np.arange(shared)]
            differs = (begun != np.frombuffer(first[:shared], np.uint8)).any(axis=0)
            shared = int(differs.argmax()) if differs.any() else shared
            if shared == 0:
                break
        return first[:shared].rfind(b"/") + 1

    def _row_chunks(self) -> Iterator[np.ndarray]:
        for begin in range(0, len(self), _DIGESTED):
            end = min(begin + _DIGESTED, len(self))
            yield self._columns[self._selection][begin:end] if self._selection else np.arange(begin, end)


class VideosWriter:
    """Writes the columns of videos, rows by rows.

    Args:
        writer: of the columns.
        classes: numbers the classes of videos that must have some; None: they need none.
    """

    def __init__(self, writer: ColumnsWriter, classes: ClassNumbers | None = None) -> None:
        self._writer, self._classes, self._has_labels = writer, classes, False
        self._name, self._end = writer.bytes("name"), writer.numbers("end")
        self._numbers = [writer.numbers(name) for name in (*_NUMBERS, "label")]

    def extend(self, rows: Sequence[Row]) -> None:
        """Write rows.

        Args:
            rows: at least one.

        Raises:
            ValueError: as `ClassNumbers.number`.
            ColumnsError: the disk is full or fails.
        """
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        paths, starts, totals, sizes, members, labels, _ = zip(*rows, strict=True)
        if self._classes is not None:
            number = self._classes.number
            labels = tuple(number(row.label, row.class_name, row.name) for row in rows)
        encoded_paths = [path.encode(encoding, errors) for path in paths]
        encoded_members = [member.encode(encoding, errors) for member in members]
        member_bytes = np.fromiter(map(len, encoded_members), np.int64, len(rows))
        lengths = np.fromiter(map(len, encoded_paths), np.int64, len(rows)) + member_bytes
        self._end.extend(self._name.length + np.cumsum(lengths))
        self._name.extend(
            b"".join([part for pair in zip(encoded_paths, encoded_members, strict=True) for part in pair])
        )
        kept = np.maximum(np.array(labels, dtype=np.int64), _NO_LABEL)
        self._has_labels |= bool(kept.max() >= 0)
        columns = [*(np.array(numbers, dtype=np.int64) for numbers in (starts, totals, sizes)), member_bytes, kept]
        for column, values in zip(self._numbers, columns, strict=True):
            column.extend(values)

    def finish(self) -> tuple[dict[str, Column], Mapping[str, Any]]:
        """End the columns.

        Returns:
            The columns of the writer, and the facts that belong to those of videos.
        """
        places, names = (None, ()) if self._classes is None else self._classes.in_order()
        facts = {"has_labels": self._has_labels, "class_names": list(names), "label_map": places}
        return self._writer.finish(), facts
