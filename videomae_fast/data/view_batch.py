"""A batch of the views of videos, and the videos that have none."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from videomae_kernels import CroppedClips, cat_clips


@dataclass(frozen=True)
class MissingVideo:
    """A video without views, because it cannot be read.

    Attributes:
        index: its number in the data set.
        path: its path; for a member of a tar file, the tar file's path and the member's name.
        reason: why it cannot be read, in one line.
    """

    index: int
    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """The views of n videos, V = segments · crops of each, and the videos that could not be read.

    Attributes:
        clips: the n · V clips: video by video, segment by segment, crop by crop. None if n is 0. Clips of a video share
            their frames.
        index: (n,) int64, the number of each video in the data set.
        label: (n,) int64, the class number of each video, -1 for none.
        missing: the videos that could not be read. No other video stands for them.
        seconds: wall-clock time that the worker took to make the batch.
    """

    clips: CroppedClips | None
    index: torch.Tensor
    label: torch.Tensor
    missing: list[MissingVideo] = field(default_factory=list)
    seconds: float = 0.0

    def pin_memory(self) -> "ViewBatch":
        """Copy the tensors to page-locked memory, from which a copy to a GPU can be asynchronous.

        Returns:
            The same batch in page-locked memory. DataLoader calls this when it pins memory.
        """
        clips = None if self.clips is None else self.clips.pin_memory()
        return replace(self, clips=clips, index=self.index.pin_memory(), label=self.label.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ViewBatch":
        """Move the tensors to a device.

        Args:
            device: the device.
            non_blocking: do not wait for the copies; they are asynchronous only from page-locked memory.

        Returns:
            The same batch on `device`.
        """
        clips = None if self.clips is None else self.clips.to(device, non_blocking)
        index, label = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.index, self.label))
        return replace(self, clips=clips, index=index, label=label)


def collate_views(batches: Sequence[ViewBatch]) -> ViewBatch:
    """Join batches into one.

    Args:
        batches: at least one, of one data set.

    Returns:
        One batch with the videos in order, all missing videos, and the sum of the seconds.
    """
    clips = [batch.clips for batch in batches if batch.clips is not None]
    return ViewBatch(
        cat_clips(clips) if clips else None,
        torch.cat([batch.index for batch in batches]),
        torch.cat([batch.label for batch in batches]),
        [missing for batch in batches for missing in batch.missing],
        sum(batch.seconds for batch in batches),
    )
