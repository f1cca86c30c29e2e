"""Videos and images with captions in columns: as flat as `Annotations`, whatever the number of captions."""

import copy
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._text import printable
from .annotations import Annotations, FrameFolder, Row, VideoEntry, VideosWriter
from .columns import CHUNK, Column, Columns, ColumnsWriter, chunks, pieces, spans
from .shards import IMAGE_SUFFIXES

LAST = math.inf  # seconds: to the end of the video
_KINDS = ("videos", "images")  # columns with the rows of each kind


class CaptionRow(NamedTuple):
    """A captioned video or image, as a list has it.

    Attributes:
        row: where it is.
        captions: at least one; none is empty.
        start: seconds of the video at which the clip begins, at least 0.
        end: seconds at which it ends, more than `start`; `LAST`: with the video.
    """

    row: Row
    captions: tuple[str, ...]
    start: float = 0.0
    end: float = LAST


class CaptionedEntry(NamedTuple):
    """A video, or a part of one, or an image, with what is said about it.

    Attributes:
        video: the video or the image.
        captions: at least one; none is empty.
        start: seconds of the video at which the clip begins, at least 0.
        end: seconds at which it ends, more than `start`; infinity: with the video.
    """

    video: VideoEntry
    captions: tuple[str, ...]
    start: float = 0.0
    end: float = LAST

    @property
    def name(self) -> str:
        """The name of the video in messages."""
        return self.video.name

    @property
    def is_image(self) -> bool:
        """Whether it is an image, which is a clip of one frame: its name tells."""
        return not isinstance(self.video, FrameFolder) and is_image(self.video.name)


def is_image(path: str) -> bool:
    """Whether a path names an image.

    Args:
        path: a file, or a member of a tar file.

    Returns:
        Whether it ends in one of `IMAGE_SUFFIXES`.
    """
    return path.lower().endswith(IMAGE_SUFFIXES)


class CaptionedVideos(Annotations):
    """Read-only sequence of the videos and images of a data set, with captions.

    `videos[i]` is the i-th video as in `Annotations`, `videos.captioned(i)` the same with its captions. All texts are
    in one column, so that forked workers share them.

    Args:
        entries: the videos.
        root: folder that relative paths are joined to.

    Attributes:
        root: as given.
        class_names: empty.

    Raises:
        ValueError: an entry has no caption or an empty one, or its start is negative or not before its end.
    """

    def __init__(self, entries: Iterable[CaptionedEntry], root: str | os.PathLike = "") -> None:
        self._fill_captioned((CaptionRow(Row.of(entry.video), *entry[1:]) for entry in entries), root)

    @classmethod
    def from_rows(  # type: ignore[override]  # rows with captions
        cls, rows: Iterable[CaptionRow], root: str | os.PathLike = "", folder: Path | None = None
    ) -> "CaptionedVideos":
        """Build the columns from the rows of a list.

        Args:
            rows: taken a few at a time, so that a long list is never held as Python objects.
            root: folder that relative paths are joined to.
            folder: an empty folder for the columns; None: they are in memory.

        Returns:
            The data set.

        Raises:
            ValueError: as `CaptionedVideos`.
            ColumnsError: the folder cannot be written.
        """
        videos = cls.__new__(cls)
        videos._fill_captioned(rows, root, folder)
        return videos

    def _fill_captioned(
        self, captioned: Iterable[CaptionRow], root: str | os.PathLike, folder: Path | None = None
    ) -> None:
        writer = ColumnsWriter(folder)
        videos, captions = VideosWriter(writer), _CaptionsWriter(writer)
        for chunk in chunks(captioned):
            captions.extend(chunk)
            videos.extend([each.row for each in chunk])
        columns, facts = videos.finish()
        self._set(Columns(columns | _kinds(columns["is_image"].array, folder), facts), root)

    @property
    def is_image(self) -> np.ndarray:
        """(n,) bool, which entries are images; it may be a read-only view."""
        return self._numbers("is_image")

    @property
    def num_captions(self) -> np.ndarray:
        """(n,) int64, the number of captions of each entry."""
        counts = np.diff(self._columns["caption_end"], prepend=0)
        return counts[self._columns[self._selection]] if self._selection else counts

    def captioned(self, index: int) -> CaptionedEntry:
        """An entry with its captions.

        Args:
            index: number of the entry; negative: counted from the end.

        Returns:
            The entry, its path joined to `root`.

        Raises:
            IndexError: there is none.
        """
        row, columns = self._row(index), self._columns
        first = int(columns["caption_end"][row - 1]) if row else 0
        captions = tuple(map(self._text, range(first, int(columns["caption_end"][row]))))
        return CaptionedEntry(
            self._entry(row), captions, float(columns["clip_start"][row]), float(columns["clip_end"][row])
        )

    def of_kind(self, images: bool) -> "CaptionedVideos":
        """The entries of one kind.

        Args:
            images: whether to keep the images, or the videos.

        Returns:
            These entries in their order; it may be empty. It shares the columns.
        """
        kind = _KINDS[images]
        if self._selection not in ("", kind):  # this is the other kind alone
            return type(self).from_rows((), self.root)
        part = copy.copy(self)
        part._selection = kind if kind in self._columns else ""
        return part

    def facts(self) -> dict[str, Any]:
        """As `Annotations.facts`, for the data set and its parts of one kind.

        Returns:
            Values that JSON can hold.
        """
        facts = super().facts()
        for images in (False, True):
            part = self.of_kind(images)
            if part._selection:
                facts["fingerprints"][part._selection] = part._digest()
        return facts

    def fingerprint(self) -> str:
        """A digest of the videos, their order, parts and captions.

        Returns:
            16 hexadecimal digits: equal for the same entries in the same order, also if the folder that holds them all
            has moved.
        """
        return super().fingerprint()

    def _digest(self) -> str:
        columns = self._columns
        digests = [hashlib.sha256() for _ in range(5)]
        for rows in self._row_chunks():
            first, last = spans(columns["caption_end"], rows)
            counts = last - first
            texts = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
            begins, ends = spans(columns["text_end"], texts)
            numbers = (columns["clip_start"][rows], columns["clip_end"][rows], counts, ends - begins)
            for digest, values in zip(digests, numbers, strict=False):
                digest.update(values)
            digests[-1].update(pieces(columns["text"], begins, ends))
        own = b"".join(digest.digest() for digest in digests)
        return hashlib.sha256(super()._digest().encode() + own).hexdigest()[:16]

    def _text(self, number: int) -> str:
        ends = self._columns["text_end"]
        return self._columns["text"][int(ends[number - 1]) if number else 0 : int(ends[number])].tobytes().decode()


class _CaptionsWriter:
    """Writes the columns of captions, rows by rows."""

    def __init__(self, writer: ColumnsWriter) -> None:
        self._text, self._text_end = writer.bytes("text"), writer.numbers("text_end")
        self._caption_end, self._captions = writer.numbers("caption_end"), 0
        self._start, self._end = writer.numbers("clip_start", np.float64), writer.numbers("clip_end", np.float64)
        self._is_image = writer.numbers("is_image", np.bool_)

    def extend(self, rows: Sequence[CaptionRow]) -> None:
        for row, captions, start, end in rows:
            if not (captions and all(captions) and 0 <= start < end):
                raise ValueError(
                    f"{printable(row.name())} needs captions, none of them empty, and 0 <= start < end, got "
                    f"{len(captions)} captions, {start:g} and {end:g}"
                )
        texts = [caption.encode() for each in rows for caption in each.captions]
        counts = np.array([len(each.captions) for each in rows], dtype=np.int64)
        self._text_end.extend(self._text.length + np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts))))
        self._text.extend(b"".join(texts))
        self._caption_end.extend(self._captions + np.cumsum(counts))
        self._captions += len(texts)
        self._start.extend(np.array([each.start for each in rows], dtype=np.float64))
        self._end.extend(np.array([each.end for each in rows], dtype=np.float64))
        images = [row.total < 0 and is_image(row.member or row.path) for row, *_ in rows]
        self._is_image.extend(np.array(images, dtype=np.bool_))


def _kinds(is_image: np.ndarray, folder: Path | None) -> dict[str, Column]:
    """The numbers of the rows of each kind; there is no such column of a kind that all rows have."""
    writer = ColumnsWriter(folder)
    for images, kind in enumerate(_KINDS):
        if len(is_image) and (is_image != images).any():
            rows = writer.numbers(kind)
            for begin in range(0, len(is_image), CHUNK):
                rows.extend(begin + np.flatnonzero(is_image[begin : begin + CHUNK] == images))
    return writer.finish()
