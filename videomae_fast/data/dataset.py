"""Clips for pre-training: decode a video once, cut several crops from it, replace what cannot be read."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from .annotations import Annotations
from .crops import crop_resize, multi_scale_crop_box
from .mixture import Mixture, VideoSource
from .problems import UnreadableVideosError, VideoProblem
from .readers import DEFAULT_READER, VideoError, check_reader, open_entry
from .sampling import frame_indices
from .seeding import sample_rng


@dataclass(frozen=True)
class ClipSample:
    """R crops of one decoded clip: `clips` uint8 (R, T, H, W, 3), their sample numbers (R,), what was replaced."""

    clips: torch.Tensor
    sample: torch.Tensor
    problems: list[VideoProblem] = field(default_factory=list)


@dataclass(frozen=True)
class ClipBatch:
    """`clips` uint8 (B*R, T, H, W, 3), `sample` int64 (B*R,): the sample numbers; `problems` of all samples."""

    clips: torch.Tensor
    sample: torch.Tensor
    problems: list[VideoProblem] = field(default_factory=list)

    def pin_memory(self) -> "ClipBatch":
        return replace(self, clips=self.clips.pin_memory(), sample=self.sample.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        clips, sample = (x.to(device, non_blocking=non_blocking) for x in (self.clips, self.sample))
        return replace(self, clips=clips, sample=sample)


def collate(samples: Sequence[ClipSample]) -> ClipBatch:
    """Copy B samples of R clips into one batch of B*R."""
    clips = torch.cat([sample.clips for sample in samples])
    numbers = torch.cat([sample.sample for sample in samples])
    return ClipBatch(clips, numbers, [problem for sample in samples for problem in sample.problems])


class ClipDataset(Dataset[ClipSample]):
    """`dataset[(index, sample_number)]` -> `ClipSample` of video `index`; its length is the samples of an epoch.

    Everything random (start frame, crops, replacement) is a function of (seed, sample_number) alone, whatever the
    number of workers or ranks. The R clips of a sample get the numbers sample_number * R + r, which the masks use.

    annotations: what `read_annotations` or `read_mixture` returns.
    num_frames, stride: T frames, `stride` apart (see `frame_indices`) unless their source says otherwise.
    size: (H, W) of the clips.
    num_repeats: R crops per decoded clip (repeated augmentation).
    reader, short_side: see `open_video`.
    max_replacements: how many other videos to try when one cannot be read, before giving up.

    Errors: ValueError for a bad argument; on reading, `UnreadableVideosError` when the video and `max_replacements`
    others (or all there are) cannot be read. Each video that was replaced is listed in the sample's `problems`.
    Source: HybridVideoMAE in datasets/pretrain_datasets.py of VideoMAEv2, which replaces without saying so.
    """

    def __init__(
        self,
        annotations: Annotations | Mixture,
        *,
        num_frames: int,
        stride: int,
        size: tuple[int, int],
        num_repeats: int,
        seed: int,
        reader: str = DEFAULT_READER,
        short_side: int = 0,
        max_replacements: int = 10,
    ) -> None:
        for name, value in (("num_frames", num_frames), ("stride", stride), ("num_repeats", num_repeats)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, got {size}")
        if max_replacements < 0:
            raise ValueError(f"max_replacements must be at least 0, got {max_replacements}")
        check_reader(reader, short_side)
        sample_rng(seed, 0)  # a seed out of range is an error now rather than in a worker
        self.annotations = annotations if isinstance(annotations, Mixture) else Mixture([VideoSource(annotations)])
        self.num_frames, self.stride, self.size = num_frames, stride, (int(size[0]), int(size[1]))
        self.num_repeats, self.seed = num_repeats, seed
        self.reader, self.short_side, self.max_replacements = reader, short_side, max_replacements

    def __len__(self) -> int:
        return self.annotations.epoch_length

    def __getitem__(self, key: tuple[int, int]) -> ClipSample:
        index, sample_number = key
        tried: set[int] = set()
        problems: list[VideoProblem] = []
        for attempt in range(min(self.max_replacements + 1, len(self.annotations))):
            rng = sample_rng(self.seed, sample_number, attempt)
            while index in tried:
                index = int(rng.integers(len(self.annotations)))
            try:
                frames = self._decode(index, rng)
            except VideoError as error:
                problems.append(VideoProblem(error.path, error.reason))
                tried.add(index)
                continue
            first = sample_number * self.num_repeats
            return ClipSample(self._crops(frames, rng), torch.arange(first, first + self.num_repeats), problems)
        listed = "".join(f"\n  {problem.path}: {problem.reason}" for problem in problems)
        raise UnreadableVideosError(f"{len(problems)} videos in a row could not be read:{listed}")

    def _decode(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        source = self.annotations.source(index)
        with closing(open_entry(self.annotations[index], self.reader, self.short_side, source.template)) as video:
            stride = source.stride or self.stride
            return torch.from_numpy(video.frames(frame_indices(video.num_frames, self.num_frames, stride, rng)))

    def _crops(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        _, height, width, _ = frames.shape
        boxes = [multi_scale_crop_box(height, width, self.size, rng) for _ in range(self.num_repeats)]
        return torch.stack([crop_resize(frames, box, self.size) for box in boxes])
