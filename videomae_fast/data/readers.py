"""Random access to the frames of a video, behind one small protocol.

Index n is the n-th frame that a player shows (rotation applied). A reader is opened for one sample, inside the worker
that needs it, and never kept: a decoder that lives through a fork hangs.
"""

import os
import re
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np

# torch before decord: the other order has crashed CUDA builds of torch (decord issue 293).
import torch  # noqa: F401

from videomae_fast._optional import require

from .annotations import VideoEntry

IMAGE_TEMPLATE = "img_{:05}.jpg"  # of raw-frame folders; the published --fname_tmpl
_NO_TIME = -1e9  # seconds; FFmpeg marks an unknown time by the smallest integer


class VideoError(Exception):
    """A video that cannot be read: `path` and a one-line `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        super().__init__(path, reason)  # both as arguments, so that it survives pickling

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoReader(Protocol):
    """`num_frames`, and `frames(indices)` -> uint8 RGB (len(indices), height, width, 3) for any order of indices."""

    @property
    def num_frames(self) -> int: ...

    def frames(self, indices: np.ndarray) -> np.ndarray: ...


def open_video(path: str | os.PathLike, reader: str = "decord") -> VideoReader:
    """Open a video file with the reader of that name.

    Errors: ValueError for an unknown reader, ImportError naming the extra if the reader's package is missing,
    `VideoError` for a file that is missing, empty, cannot be decoded or has no frames.
    """
    if reader not in READERS:
        raise ValueError(f"reader must be one of {sorted(READERS)}, got {reader!r}")
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise VideoError(path, "is a folder, not a file" if os.path.isdir(path) else "no such file")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "the file is empty (0 bytes)")
    return READERS[reader](path)


def open_entry(entry: VideoEntry, reader: str = "decord") -> VideoReader:
    """Open what a line of an annotation file names: a video file or a raw-frame folder."""
    if entry.total < 0:
        return open_video(entry.path, reader)
    return ImageFolder(entry.path, entry.start, entry.total)


class DecordVideo:
    """`VideoReader` on decord's CPU decoder with one thread.

    Frames are exact except where decord itself seeks to a neighbour: a few frames off in HEVC with open GOPs (x265's
    default) and WMV, off by the first group of pictures in MPEG-TS.
    """

    def __init__(self, path: str) -> None:
        decord = _decord()
        self.path = path
        try:
            self._video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            times = self._video.get_frame_timestamp(np.arange(len(self._video)))[:, 0]
        except Exception as error:
            raise VideoError(path, f"decord cannot open it ({_first_line(error)})") from error
        # decord counts packets. Those cut off by an edit list have negative times, and alternate reference packets
        # share one with a neighbour: neither is shown. Packets without a time (AVI with B-frames) may all be.
        timed = not np.any(times < _NO_TIME)
        self.num_frames = len(np.unique(times[times >= 0])) if timed else len(times)
        self._seekable = timed and self.num_frames == len(times)
        if self.num_frames == 0:
            raise VideoError(path, "has no frames")

    def frames(self, indices: np.ndarray) -> np.ndarray:
        indices = _checked(indices, self.num_frames)
        try:
            if self._seekable:
                return self._video.get_batch(indices).asnumpy()
            return self._frames_from_start(indices)
        except Exception as error:
            raise VideoError(self.path, f"decord cannot decode it ({_first_line(error)})") from error

    def _frames_from_start(self, indices: np.ndarray) -> np.ndarray:
        """Decode every frame from 0: decord seeks and skips by packets, and would land on another frame."""
        wanted, order = np.unique(indices, return_inverse=True)
        self._video.seek(0)
        decoded = (self._video.next() for _ in range(wanted[-1] + 1))
        kept = set(wanted.tolist())
        return np.stack([frame.asnumpy() for index, frame in enumerate(decoded) if index in kept])[order]


class ImageFolder:
    """`VideoReader` on a folder of images: frame n is `IMAGE_TEMPLATE.format(n + start)`."""

    def __init__(self, path: str, start: int, total: int) -> None:
        self.path, self.start, self.num_frames = path, start, total
        if not os.path.isdir(path):
            raise VideoError(path, "no such folder of frames")

    def frames(self, indices: np.ndarray) -> np.ndarray:
        image = require("PIL.Image", "video")
        wanted, order = np.unique(_checked(indices, self.num_frames), return_inverse=True)
        shown = []
        for index in wanted:
            name = IMAGE_TEMPLATE.format(index + self.start)
            try:
                with image.open(os.path.join(self.path, name)) as file:
                    shown.append(np.asarray(file.convert("RGB")))
            except Exception as error:
                reason = "no such frame" if isinstance(error, FileNotFoundError) else _first_line(error)
                raise VideoError(self.path, f"{name}: {reason}") from error
            if shown[-1].shape != shown[0].shape:
                raise VideoError(self.path, f"{name} is {shown[-1].shape[:2]}, others are {shown[0].shape[:2]}")
        return np.stack(shown)[order]


READERS: dict[str, Callable[[str], VideoReader]] = {"decord": DecordVideo}


def _decord() -> ModuleType:
    decord = require("decord", "video")
    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's chatter; what matters comes as an exception
    return decord


def _checked(indices: np.ndarray, num_frames: int) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or indices.size == 0 or indices.min() < 0 or indices.max() >= num_frames:
        raise ValueError(f"indices must be a non-empty list of frames in [0, {num_frames}), got {indices}")
    return indices


def _first_line(error: Exception) -> str:
    """The message without decord's C++ stack, clock and source position, so that equal causes read the same."""
    lines = str(error).strip().splitlines()
    return re.sub(r"^\[[\d:]+\] \S+: ", "", lines[0]) if lines else type(error).__name__
