"""The sliding windows that features of a long video are made of: the published procedure, and ours.

The published script reads the frames of every window by random access, although windows overlap. Ours streams them.
Ours rounds pixels to uint8. The forward pass of the model is the same for both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.baselines.published.windows import published_windows
from benchmarks.evaluate.videos import opened
from benchmarks.evaluate.views import PUBLISHED
from benchmarks.harness.run import DisagreementError
from benchmarks.loader.videos import make_videos
from videomae_fast.data import Mixture, read_mixture
from videomae_fast.data.windows import Windows, stream_windows

LENGTH, STRIDE, SIZE = 16, 4, (224, 224)  # published, of THUMOS14
BATCH_SIZE = 8  # windows of a forward pass
LIMIT = 1.05  # of 255: weights of few bits, as PyTorch resizes uint8 with, and the rounding
CHECKED = 6  # windows whose pixels are compared


@dataclass(frozen=True)
class WindowCase:
    """All windows of some videos."""

    name: str  # a size of `make_videos`, or the name of the user's own list
    rounds: int
    own: Path | None = None  # the user's own videos

    def videos(self, folder: Path) -> Mixture:
        """The videos of the case, written into `folder` if they are not the user's own."""
        return read_mixture(self.own) if self.own else make_videos(self.name, folder)

    def maker(self, variant: str, folder: Path) -> "PublishedWindows | OurWindows":
        """Makes all windows of a round."""
        return (PublishedWindows if variant == PUBLISHED else OurWindows)(self.videos(folder))

    def check(self, folder: Path) -> dict[str, float]:
        """The largest difference of pixels, of 255, in the first windows; DisagreementError if it is beyond LIMIT."""
        videos, ours = self.videos(folder), OurWindows(self.videos(folder))
        windows = list(islice(ours.windows(0), CHECKED))
        if not windows:
            raise ValueError(f"{videos[0].path} is too short: windows have {LENGTH} frames")
        found = torch.stack(windows).float()

        with opened(videos, 0) as video:
            published = torch.stack(list(islice(published_windows(video, LENGTH, STRIDE, SIZE), CHECKED))) * 255
        error = {"pixels": float((published - found).abs().max())}
        if not error["pixels"] <= LIMIT:  # NaN is no agreement
            raise DisagreementError(f"windows and the published ones disagree, so nothing was timed: {error} of 255")
        return error

    def __str__(self) -> str:
        return f"windows of {LENGTH}x{SIZE[0]}x{SIZE[1]}, {STRIDE} frames apart"


class PublishedWindows:
    """Calling it makes all windows of all videos."""

    def __init__(self, videos: Mixture) -> None:
        self.list = videos
        self.clips = self.frames_read = self.sent = 0  # of all calls

    def __call__(self) -> None:
        for index in range(len(self.list)):
            for window in self.windows(index):
                self.clips += 1
                self.sent += window.nbytes

    def windows(self, index: int) -> Iterator[Tensor]:
        """(3, T, H, W) float32 in [0, 1]."""
        with opened(self.list, index) as video:
            yield from published_windows(video, LENGTH, STRIDE, SIZE)
            self.frames_read += video.frames_read


class OurWindows:
    """Calling it makes all windows of all videos, the published ones: without the last frames."""

    def __init__(self, videos: Mixture) -> None:
        self.list = videos
        self.clips = self.frames_read = self.sent = 0  # of all calls

    def __call__(self) -> None:
        for index in range(len(self.list)):
            for batch in self.batches(index):
                self.clips += len(batch)
                self.sent += batch.untyped_storage().nbytes()  # overlapping windows share their frames

    def batches(self, index: int) -> Iterator[Tensor]:
        """(n, 3, T, H, W) uint8."""
        windows = Windows(LENGTH, 1, STRIDE, keep_tail=False)
        with opened(self.list, index) as video:
            yield from stream_windows(video, windows, SIZE, "squash", BATCH_SIZE, torch.device("cpu"))
            self.frames_read += video.frames_read

    def windows(self, index: int) -> Iterator[Tensor]:
        """(3, T, H, W) uint8, one by one."""
        for batch in self.batches(index):
            yield from batch
