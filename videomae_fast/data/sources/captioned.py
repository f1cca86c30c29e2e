"""Videos and images with captions in memory: as flat as `Annotations`, whatever the number of captions."""

import hashlib
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..._text import printable
from .annotations import Annotations, FrameFolder, Row, VideoEntry
from .shards import IMAGE_SUFFIXES

LAST = math.inf  # seconds: to the end of the video


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
    in one array, so that forked workers share them.

    Args:
        entries: the videos.
        root: folder that relative paths are joined to.

    Attributes:
        root: as given.
        class_names: empty.
        is_image: (n,) bool, which entries are images.
        num_captions: (n,) int64, the number of captions of each entry.

    Raises:
        ValueError: an entry has no caption or an empty one, or its start is negative or not before its end.
    """

    def __init__(self, entries: Iterable[CaptionedEntry], root: str | os.PathLike = "") -> None:
        self._fill_captioned((CaptionRow(Row.of(entry.video), *entry[1:]) for entry in entries), root)

    @classmethod
    def from_rows(  # type: ignore[override]  # rows with captions
        cls, rows: Iterable[CaptionRow], root: str | os.PathLike = ""
    ) -> "CaptionedVideos":
        """Build the arrays from the rows of a list.

        Args:
            rows: taken one by one, so that a long list is never held as Python objects.
            root: folder that relative paths are joined to.

        Returns:
            The data set.

        Raises:
            ValueError: as `CaptionedVideos`.
        """
        videos = cls.__new__(cls)
        videos._fill_captioned(rows, root)
        return videos

    def _fill_captioned(self, captioned: Iterable[CaptionRow], root: str | os.PathLike) -> None:
        texts, ends, counts, seconds, images = bytearray(), array("q"), array("q"), array("d"), array("b")

        def rows() -> Iterator[Row]:
            for row, captions, start, end in captioned:
                if not (captions and all(captions) and 0 <= start < end):
                    raise ValueError(
                        f"{printable(row.name())} needs captions, none of them empty, and 0 <= start < end, got "
                        f"{len(captions)} captions, {start:g} and {end:g}"
                    )
                for caption in captions:
                    texts.extend(caption.encode())
                    ends.append(len(texts))
                counts.append(len(captions))
                seconds.extend((start, end))
                images.append(row.total < 0 and is_image(row.member or row.path))
                yield row

        self._fill(rows(), root, None)
        self._texts = np.frombuffer(texts, dtype=np.uint8)
        self._text_ends = np.array(ends, dtype=np.int64)
        self.num_captions = np.array(counts, dtype=np.int64)
        self._first_text = np.cumsum(self.num_captions) - self.num_captions
        self._seconds = np.array(seconds, dtype=np.float64).reshape(-1, 2)
        self.is_image = np.array(images, dtype=bool)

    def captioned(self, index: int) -> CaptionedEntry:
        """An entry with its captions.

        Args:
            index: number of the entry; negative: counted from the end.

        Returns:
            The entry, its path joined to `root`.

        Raises:
            IndexError: there is none.
        """
        video = self[index]
        first = int(self._first_text[index])
        captions = tuple(map(self._text, range(first, first + int(self.num_captions[index]))))
        start, end = self._seconds[index].tolist()
        return CaptionedEntry(video, captions, start, end)

    def of_kind(self, images: bool) -> "CaptionedVideos":
        """The entries of one kind.

        Args:
            images: whether to keep the images, or the videos.

        Returns:
            These entries in their order; it may be empty.
        """
        kept = self.is_image == images
        part = type(self).__new__(type(self))
        part.root, part.class_names = self.root, ()
        part._names, part._ends = _parts(self._names, self._ends, np.repeat(kept, 2))  # path and member
        part._numbers, part._labels = self._numbers[kept], self._labels[:0]
        part._texts, part._text_ends = _parts(self._texts, self._text_ends, np.repeat(kept, self.num_captions))
        part.num_captions, part._seconds = self.num_captions[kept], self._seconds[kept]
        part.is_image = self.is_image[kept]
        part._first_text = np.cumsum(part.num_captions) - part.num_captions
        return part

    def fingerprint(self) -> str:
        """A digest of the videos, their order, parts and captions.

        Returns:
            16 hexadecimal digits: equal for the same entries in the same order, also if the folder that holds them all
            has moved.
        """
        digest = hashlib.sha256(super().fingerprint().encode())
        for numbers in (self._texts, self._text_ends, self.num_captions, self._seconds):
            digest.update(numbers.tobytes())
        return digest.hexdigest()[:16]

    def _text(self, number: int) -> str:
        begin = self._text_ends[number - 1] if number else 0
        return self._texts[begin : self._text_ends[number]].tobytes().decode()


def _parts(data: np.ndarray, ends: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some parts of an array that holds parts of various lengths one after another, and their ends."""
    lengths = np.diff(ends, prepend=0)
    return data[np.repeat(kept, lengths)], np.cumsum(lengths[kept])
