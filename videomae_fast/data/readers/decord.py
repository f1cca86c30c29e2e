"""Frames through decord, the reader of the published results (or decord2, which has the same import name)."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np

# torch before decord: the other order has crashed CUDA builds of torch (decord issue 293).
import torch  # noqa: F401

from ..._optional import require
from .base import TimeLimit, VideoError, check_indices, stream_singly, video_errors

_NO_TIME = -1e9  # seconds; FFmpeg marks an unknown time by the smallest integer


class DecordVideo:
    """`VideoReader` on decord's CPU decoder with one thread.

    decord seeks inexactly in some formats and then returns wrong frames: off by a few in WMV and in HEVC with open
    groups of pictures (x265's default), off by the first group of pictures in MPEG-TS, and in Matroska whose times
    begin before 0. It opens whatever its FFmpeg recognises, and a call into it cannot be ended.
    """

    def __init__(self, path: str, url: str) -> None:
        decord = _decord()
        self.path = path
        with video_errors(path, "decord cannot open it"):
            self._video = decord.VideoReader(url, ctx=decord.cpu(0), num_threads=1)
            times = self._video.get_frame_timestamp(np.arange(len(self._video)))[:, 0]
            self.fps = float(self._video.get_avg_fps())
        # decord counts packets, but some are not shown: a packet that an edit list cuts off has a negative time, and an
        # alternate reference has the time of its neighbour. Where packets have no times (AVI with B-frames), all count.
        timed = not np.any(times < _NO_TIME)
        self.num_frames = len(np.unique(times[times >= 0])) if timed else len(times)
        self._seekable = timed and self.num_frames == len(times)
        if self.num_frames == 0:
            raise VideoError(path, "has no frames")

    def close(self) -> None:
        """See `VideoReader`."""
        self._video = None

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """See `VideoReader`."""
        return stream_singly(self, self.path, indices)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        with video_errors(self.path, "decord cannot decode it"):
            if self._seekable:
                return self._video.get_batch(indices).asnumpy()
            return self._frames_from_start(indices)

    def _frames_from_start(self, indices: np.ndarray) -> np.ndarray:
        """Decode every frame from 0, because decord seeks and skips by packets and would land on another frame."""
        wanted, order = np.unique(indices, return_inverse=True)
        self._video.seek(0)
        decoded = (self._video.next() for _ in range(wanted[-1] + 1))
        kept = set(wanted.tolist())
        shown = enumerate(TimeLimit(self.path).over(decoded))
        return np.stack([frame.asnumpy() for index, frame in shown if index in kept])[order]


def _decord() -> ModuleType:
    decord = require("decord")
    decord.logging.set_level(decord.logging.QUIET)  # silences FFmpeg: real errors come as exceptions
    return decord
