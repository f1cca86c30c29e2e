"""Weighted mixtures of sources, and the order of their videos in training."""

import hashlib
import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from ..._text import printable
from ..readers import IMAGE_TEMPLATE
from ..seeding import epoch_rng, pass_rng
from .annotations import Annotations, VideoEntry
from .captioned import CaptionedEntry, CaptionedVideos

_LONGEST_EPOCH = 2**32  # samples; `Mixture.order` holds an epoch in memory
_LARGEST_STRIDE = 2**31  # frames: more than any video has, and products with it stay far from 2**63
_NUMBER_SPEC = re.compile(r"(?:0[>=]?)?([0-9]{0,3})d?")  # how a template may write the number of a frame
_WIDEST = 255  # characters of a file's name


@dataclass(frozen=True)
class VideoSource:
    """Videos with the same weight, frame stride, flips and image names.

    Attributes:
        annotations: the videos, at least one.
        weight: how often each video comes in an epoch, positive; an epoch has at most 2**32 samples.
        frame_stride: frames from one frame of a clip to the next; None: as the dataset says.
        hflip: whether crops may be flipped horizontally: False where left and right matter. A dataset without flips,
            such as one to evaluate on, flips none.
        template: names of the images in folders of frames, with one place for the frame's number, in decimal digits:
            {}, {:05} or {:05d}. A name may lie in a folder below, but not outside.

    Raises:
        ValueError: a value is out of range, or the template is none.
    """

    annotations: Annotations
    weight: float = 1.0
    frame_stride: int | None = None
    template: str = IMAGE_TEMPLATE
    hflip: bool = True

    def __post_init__(self) -> None:
        if len(self.annotations) == 0:
            raise ValueError("annotations are empty")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive and finite, got {shown_value(self.weight)}")
        if self.weight * len(self.annotations) > _LONGEST_EPOCH:
            raise ValueError(
                f"weight must give an epoch of at most {_LONGEST_EPOCH} samples, got {shown_value(self.weight)} for "
                f"{len(self.annotations)} videos"
            )
        if self.frame_stride is not None and not 1 <= self.frame_stride <= _LARGEST_STRIDE:
            raise ValueError(
                f"frame_stride must be at least 1 and at most {_LARGEST_STRIDE}, got {shown_value(self.frame_stride)}"
            )
        if not _is_template(self.template):
            raise ValueError(
                f"template must have one place for the frame's number, as {IMAGE_TEMPLATE!r} has, and name a file "
                f"below the folder of frames, got {shown_value(self.template)}"
            )

    @property
    def epoch_length(self) -> int:
        """Samples of the source in an epoch, at least 1: weight · number of videos, rounded."""
        return max(1, round(self.weight * len(self.annotations)))


class Mixture:
    """The videos of all sources, with one numbering, and their order in training.

    Each source is passed through without repetition, in a new random order for each pass, and continues in the next
    epoch where it stopped. Within an epoch the sources are shuffled together.

    Args:
        sources: at least one.

    Attributes:
        sources: as given.
        epoch_length: samples of an epoch, over all sources.

    Raises:
        ValueError: there is no source, or an epoch has more than 2**32 samples.

    References:
        The UnlabeledHybrid list of VideoMAE V2 concatenates several data sets, which equals weights of 1.
    """

    def __init__(self, sources: Sequence[VideoSource]) -> None:
        if not sources:
            raise ValueError("a mixture needs at least one source")
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source.annotations) for source in sources])
        self.epoch_length = sum(source.epoch_length for source in sources)
        if self.epoch_length > _LONGEST_EPOCH:
            raise ValueError(f"an epoch may have {_LONGEST_EPOCH} samples, got {self.epoch_length}: lower the weights")

    @property
    def has_labels(self) -> bool:
        """Whether any video has a label. Equal labels in two sources mean the same class after `number_classes`."""
        return any(source.annotations.has_labels for source in self.sources)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, as `number_classes` gave them to all sources; empty if the sources differ."""
        names = {source.annotations.class_names for source in self.sources}
        return names.pop() if len(names) == 1 else ()

    @property
    def labels(self) -> np.ndarray:
        """(len,) int64, the class number of each video, -1 for none; it may be a read-only view."""
        if len(self.sources) == 1:
            return self.sources[0].annotations.labels
        return np.concatenate([source.annotations.labels for source in self.sources])

    def __len__(self) -> int:
        """The number of videos."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> VideoEntry:
        """Video `index` in [0, len); IndexError if there is none."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} videos")
        number = self._number(index)
        return self.sources[number].annotations[
            index - int(self._ends[number])
        ]  # negative: counted from the source's end

    def fingerprint(self) -> str:
        """A digest of the videos and weights that `order` draws from.

        Returns:
            16 hexadecimal digits: equal if the same videos come in the same order with the same frame strides and
            flips, also if the folders of the videos have moved.
        """
        parts = [
            (source.annotations.fingerprint(), float(source.weight), source.frame_stride, source.hflip)
            for source in self.sources
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def source(self, index: int) -> VideoSource:
        """The source of a video.

        Args:
            index: number of the video, in [0, len).

        Returns:
            One of `sources`.
        """
        return self.sources[self._number(index)]

    def captioned(self, index: int) -> CaptionedEntry:
        """A video with its captions; all sources have some (`is_captioned`).

        Args:
            index: number of the video, in [0, len).

        Returns:
            The entry.
        """
        number = self._number(index)
        annotations = self.sources[number].annotations
        assert isinstance(annotations, CaptionedVideos)
        return annotations.captioned(index - int(self._ends[number]))  # negative: counted from the source's end

    @property
    def is_captioned(self) -> bool:
        """Whether every video has captions, as `read_mixture(..., captioned=True)` returns them."""
        return all(isinstance(source.annotations, CaptionedVideos) for source in self.sources)

    def _number(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Draw the order of an epoch, a function of the arguments alone.

        It takes 4 bytes a sample, and while it is drawn 4 bytes more for each video of the largest source that an epoch
        passes in part.

        Args:
            seed: in [0, 2**64).
            epoch: at least 0.

        Returns:
            (epoch_length,) the numbers of the videos: uint32, or int64 if there are more than 2**32 videos.

        Raises:
            ValueError: a number is out of range.
        """
        order = np.empty(self.epoch_length, dtype=np.uint32 if len(self) <= 2**32 else np.int64)
        begin = 0
        for number, source in enumerate(self.sources):
            self._draw(order[begin : begin + source.epoch_length], number, seed, epoch)
            begin += source.epoch_length
        epoch_rng(seed, epoch).shuffle(order)
        return order

    def _draw(self, drawn: np.ndarray, number: int, seed: int, epoch: int) -> None:
        """Write the videos of a source in an epoch, which may lie in several passes through the source."""
        size, length = len(self.sources[number].annotations), len(drawn)
        first, place = self._ends[number] - size, epoch * length
        begin = 0
        while begin < length:
            current, skipped = divmod(place + begin, size)
            part = drawn[begin : begin + size - skipped]
            whole = part if len(part) == size else np.empty(size, dtype=drawn.dtype)
            whole[0], whole[1:] = first, 1
            np.cumsum(whole, dtype=whole.dtype, out=whole)  # numbers first, first + 1, ... without another array
            pass_rng(seed, current, number).shuffle(whole)
            if whole is not part:
                part[:] = whole[skipped : skipped + len(part)]
            begin += len(part)


def _is_template(template: str) -> bool:
    """Whether a template has one place for a number, and names files below a folder. It is not applied before."""
    try:
        places = [place for place in string.Formatter().parse(template) if place[1] is not None]
    except ValueError:
        return False
    if len(places) != 1 or "\0" in template:
        return False
    _, field, spec, conversion = places[0]
    number = _NUMBER_SPEC.fullmatch(spec or "")
    if field not in ("", "0") or conversion is not None or number is None or int(number[1] or 0) > _WIDEST:
        return False
    name = PurePath(template.format(1))
    return not name.is_absolute() and not name.drive and ".." not in name.parts


def shown_value(value: Any) -> str:
    """A value in a message.

    Args:
        value: any value.

    Returns:
        One short line, also if it is long or nests deep.
    """
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that nests too deep"
    return printable(text if len(text) <= 100 else f"{text[:100]}...")
