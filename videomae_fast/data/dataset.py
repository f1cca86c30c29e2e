"""Clips for pre-training: decode a video once, draw several crops of it, replace what cannot be read."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from videomae_kernels import CroppedClips, cat_clips
from videomae_kernels.ops.cropped_clips import RESIZES

from .bad_videos import UnreadableVideosError, VideoProblem
from .crops import CROP_BOXES, Crop, cut_clips
from .readers import DEFAULT_READER, VideoError, check_reader, open_entry
from .sampling import frame_indices
from .seeding import sample_rng
from .sources.annotations import Annotations
from .sources.mixture import Mixture, VideoSource


@dataclass(frozen=True)
class ClipBatch:
    """B clips, as every pixel op and the model take them, their sample numbers and what was replaced among them."""

    clips: CroppedClips
    sample: torch.Tensor  # (B,) int64
    problems: list[VideoProblem] = field(default_factory=list)
    seconds: float = 0.0  # of work that it took to make

    def pin_memory(self) -> "ClipBatch":
        return replace(self, clips=self.clips.pin_memory(), sample=self.sample.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        sample = self.sample.to(device, non_blocking=non_blocking)
        return replace(self, clips=self.clips.to(device, non_blocking), sample=sample)


@dataclass(frozen=True)
class Draw:
    """What chance made a sample of: some frames of a video, and the crops of them."""

    index: int  # of the video
    frame_numbers: np.ndarray  # (T,) int64
    frames: torch.Tensor  # uint8 (T, height, width, 3)
    crops: list[Crop]  # R
    problems: list[VideoProblem]  # of the videos that this one replaces


def collate(batches: Sequence[ClipBatch]) -> ClipBatch:
    """One batch of several."""
    return ClipBatch(
        cat_clips([batch.clips for batch in batches]),
        torch.cat([batch.sample for batch in batches]),
        [problem for batch in batches for problem in batch.problems],
        sum(batch.seconds for batch in batches),
    )


class ClipDataset(Dataset[ClipBatch]):
    """`dataset[(index, sample_number)]` -> `ClipBatch` of video `index`; its length is the samples of an epoch.

    Everything random (start frame, crops, replacement) is a function of (seed, sample_number) alone, whatever the
    number of workers or ranks. The R clips of a sample get the numbers sample_number * R + r, which the masks use.

    annotations: what `read_annotations` or `read_mixture` returns.
    num_frames, frame_stride: T frames, `frame_stride` apart (see `frame_indices`) unless their source says otherwise.
    size: (H, W) of the clips.
    crops_per_video: R crops per decoded clip (repeated augmentation).
    crop: how boxes are drawn, a name in `CROP_BOXES`.
    hflip: show half of the crops flipped, left to right.
    resize: how boxes become clips of `size`: see `CroppedClips`.
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
        frame_stride: int,
        size: tuple[int, int],
        crops_per_video: int,
        seed: int,
        crop: str = "multi-scale",
        hflip: bool = False,
        resize: str = "antialias",
        reader: str = DEFAULT_READER,
        short_side: int = 0,
        max_replacements: int = 10,
    ) -> None:
        for name, value in (
            ("num_frames", num_frames),
            ("frame_stride", frame_stride),
            ("crops_per_video", crops_per_video),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, got {size}")
        if max_replacements < 0:
            raise ValueError(f"max_replacements must be at least 0, got {max_replacements}")
        for name, choice, known in (("crop", crop, tuple(CROP_BOXES)), ("resize", resize, RESIZES)):
            if choice not in known:
                raise ValueError(f"{name} must be one of {known}, got {choice!r}")
        check_reader(reader, short_side)
        sample_rng(seed, 0)  # a seed out of range is an error now rather than in a worker
        self.annotations = annotations if isinstance(annotations, Mixture) else Mixture([VideoSource(annotations)])
        self.num_frames, self.frame_stride, self.size = num_frames, frame_stride, (int(size[0]), int(size[1]))
        self.crops_per_video, self.seed = crops_per_video, seed
        self.crop, self.hflip, self.resize = crop, hflip, resize
        self.reader, self.short_side, self.max_replacements = reader, short_side, max_replacements

    def __len__(self) -> int:
        return self.annotations.epoch_length

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch:
        start = time.perf_counter()
        index, sample_number = key
        drawn = self.draw(index, sample_number)
        clips = cut_clips(drawn.frames, drawn.crops, self.size, self.resize)
        first = sample_number * self.crops_per_video
        numbers = torch.arange(first, first + self.crops_per_video)
        return ClipBatch(clips, numbers, drawn.problems, time.perf_counter() - start)

    def draw(self, index: int, sample_number: int) -> Draw:
        """The frames and crops of a sample, from video `index` or, if that cannot be read, from another."""
        tried: set[int] = set()
        problems: list[VideoProblem] = []
        for attempt in range(min(self.max_replacements + 1, len(self.annotations))):
            rng = sample_rng(self.seed, sample_number, attempt)
            while index in tried:
                index = int(rng.integers(len(self.annotations)))
            try:
                numbers, frames = self.decode(index, rng)
            except VideoError as error:
                problems.append(VideoProblem(error.path, error.reason))
                tried.add(index)
                continue
            return Draw(index, numbers, frames, self._draw_crops(frames, rng), problems)
        listed = "".join(f"\n  {problem.path}: {problem.reason}" for problem in problems)
        raise UnreadableVideosError(f"{len(problems)} videos in a row could not be read:{listed}")

    def decode(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        """Numbers (T,) and pixels uint8 (T, height, width, 3) of a clip's frames; `VideoError` if unreadable."""
        source = self.annotations.source(index)
        with closing(open_entry(self.annotations[index], self.reader, self.short_side, source.template)) as video:
            numbers = frame_indices(video.num_frames, self.num_frames, source.frame_stride or self.frame_stride, rng)
            return numbers, torch.from_numpy(video.frames(numbers))

    def _draw_crops(self, frames: torch.Tensor, rng: np.random.Generator) -> list[Crop]:
        _, height, width, _ = frames.shape
        box = CROP_BOXES[self.crop]
        return [
            Crop(box(height, width, self.size, rng), self.hflip and bool(rng.integers(2)))
            for _ in range(self.crops_per_video)
        ]
