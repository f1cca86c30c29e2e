"""A batch of clips: the loader makes it, a training step takes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from videomae_kernels import CroppedClips, cat_clips

from .bad_videos import BadVideo


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """B clips, with their sample numbers, labels and the videos that were replaced.

    The `crops_per_video` clips of a video are consecutive.

    Attributes:
        clips: the B clips, as every pixel op and the model take them.
        sample: (B,) int64, the sample number of each clip: masks are a function of it.
        label: (B,) int64, the class number of each clip, -1 where a video has none; None if no video of the data set
            has a label. The label belongs to the video that the clip shows, even if it replaces a bad video.
        crops_per_video: clips of each video.
        bad_videos: the videos that were replaced in this batch.
        seconds: wall-clock time that the worker took to make the batch.
        matrix: (B, 2, 3) float32 if RandAugment on the device resamples the clips: `clips` are then regions that
            `ClipAugmentation` makes the clips from. Otherwise None.
    """

    clips: CroppedClips
    sample: torch.Tensor
    label: torch.Tensor | None = None
    crops_per_video: int = 1
    bad_videos: list[BadVideo] = field(default_factory=list)
    seconds: float = 0.0
    matrix: torch.Tensor | None = None

    @property
    def num_videos(self) -> int:
        """Number of videos: B / `crops_per_video`."""
        return len(self.sample) // self.crops_per_video

    def pin_memory(self) -> "ClipBatch":
        """Copy the tensors to page-locked memory, from which a copy to a GPU can be asynchronous.

        Returns:
            The same batch in page-locked memory. DataLoader calls this when it pins memory.
        """
        label = None if self.label is None else self.label.pin_memory()
        matrix = None if self.matrix is None else self.matrix.pin_memory()
        clips, sample = self.clips.pin_memory(), self.sample.pin_memory()
        return replace(self, clips=clips, sample=sample, label=label, matrix=matrix)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        """Move the tensors to a device.

        Args:
            device: the device.
            non_blocking: do not wait for the copies; they are asynchronous only from page-locked memory.

        Returns:
            The same batch on `device`.
        """
        label = None if self.label is None else self.label.to(device, non_blocking=non_blocking)
        matrix = None if self.matrix is None else self.matrix.to(device, non_blocking=non_blocking)
        sample = self.sample.to(device, non_blocking=non_blocking)
        return replace(self, clips=self.clips.to(device, non_blocking), sample=sample, label=label, matrix=matrix)

    def split(self, num_parts: int) -> list["ClipBatch"]:
        """Divide the batch into parts with equally many videos, for gradient accumulation.

        Nothing is copied: the parts share one buffer of frames and are views of the other tensors. Move a batch to the
        device first and split it there; `to` of a part would copy the frames of all parts.

        Args:
            num_parts: number of parts; it must divide the number of videos.

        Returns:
            The parts, in the order of the batch. The first part has the bad videos of the whole batch, and `seconds` is
            divided equally, so that sums over the parts equal the batch's.

        Raises:
            ValueError: `num_parts` is not positive or does not divide the number of videos.
        """
        if num_parts < 1 or self.num_videos % num_parts:
            raise ValueError(
                f"num_parts must be at least 1 and divide the {self.num_videos} videos of the batch, got {num_parts}"
            )
        size = len(self.sample) // num_parts
        return [self._part(slice(begin, begin + size), num_parts) for begin in range(0, num_parts * size, size)]

    def _part(self, part: slice, num_parts: int) -> "ClipBatch":
        return replace(
            self,
            clips=self.clips[part],
            sample=self.sample[part],
            label=None if self.label is None else self.label[part],
            bad_videos=[] if part.start else self.bad_videos,
            seconds=self.seconds / num_parts,
            matrix=None if self.matrix is None else self.matrix[part],
        )


def collate(batches: Sequence[ClipBatch]) -> ClipBatch:
    """Join batches into one.

    Args:
        batches: at least one; clips of the same size, number of frames, resize and crops per video.

    Returns:
        One batch with the clips in order, all bad videos, and the sum of the seconds. If only some batches have labels,
        the clips of the others have label -1.

    Raises:
        ValueError: the batches differ in the shape of their clips, in the resize or in `crops_per_video`, or only some
            have matrices.
    """
    crops_per_video = {batch.crops_per_video for batch in batches}
    if len(crops_per_video) > 1:
        raise ValueError(f"batches must have the same crops_per_video, got {sorted(crops_per_video)}")
    return ClipBatch(
        cat_clips([batch.clips for batch in batches]),
        torch.cat([batch.sample for batch in batches]),
        _cat_labels(batches),
        crops_per_video.pop(),
        [bad_video for batch in batches for bad_video in batch.bad_videos],
        sum(batch.seconds for batch in batches),
        _cat_matrices(batches),
    )


def _cat_matrices(batches: Sequence[ClipBatch]) -> torch.Tensor | None:
    matrices = [batch.matrix for batch in batches if batch.matrix is not None]
    if len(matrices) not in (0, len(batches)):
        raise ValueError(f"batches must all have a matrix or none, got {len(matrices)} of {len(batches)} with one")
    return torch.cat(matrices) if matrices else None


def _cat_labels(batches: Sequence[ClipBatch]) -> torch.Tensor | None:
    if all(batch.label is None for batch in batches):
        return None
    return torch.cat([torch.full_like(batch.sample, -1) if batch.label is None else batch.label for batch in batches])
