"""Clips for training: decode a video once, draw several crops of it, replace a video that cannot be read."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from videomae_kernels import CroppedClips
from videomae_kernels.pixels.crops import RESIZES

from .._text import printable
from .augment.clips import ClipAugmentation
from .bad_videos import BadVideo, UnreadableVideosError
from .batch import ClipBatch
from .crops import AREAS, CROP_BOXES, Crop, check_areas, cut_clips
from .readers import DEFAULT_READER, MAX_DECODED_BYTES, VideoError, check_reader, open_entry
from .sampling import SAMPLINGS, Sampling
from .seeding import sample_rng
from .sound import SoundClip
from .sources.annotations import Annotations
from .sources.mixture import Mixture, VideoSource


@dataclass(frozen=True, eq=False)
class Draw:
    """The random choices of one sample: some frames of a video, and crops of them.

    Attributes:
        index: number of the video in the data set.
        frame_numbers: (T,) int64, the frames of the video.
        frames: uint8 (T, height, width, 3), their pixels.
        crops: the crops of the sample, one for each clip.
        bad_videos: the videos that this one replaces.
        sound: of the sample, where the data set has sounds.
    """

    index: int
    frame_numbers: np.ndarray
    frames: torch.Tensor
    crops: list[Crop]
    bad_videos: list[BadVideo]
    sound: SoundClip | None = None


class ClipDataset(Dataset[ClipBatch]):
    """`dataset[(index, sample_number)]` is a `ClipBatch` of the R = `crops_per_video` clips of video `index`.

    Everything random (frames, crops, replacement of a bad video) is a function of (seed, sample_number) alone,
    for any number of workers and ranks. The clips have the sample numbers sample_number · R + r, r in [0, R); masks
    are a function of these. A video that cannot be read is replaced by another, and listed in `bad_videos` of the
    sample. `len(dataset)` is the number of samples of an epoch.

    Args:
        annotations: the videos, as `read_annotations` or `read_mixture` returns them.
        num_frames: T, the frames of a clip.
        frame_stride: frames from one frame of a clip to the next, unless the source of the video says otherwise. Not
            used by `sampling` "uniform".
        size: (H, W) of the clips, in pixels.
        crops_per_video: R, the clips of each decoded video (repeated augmentation).
        seed: in [0, 2**64).
        sampling: which frames make a clip: "strided" is the published rule of pre-training (`frame_indices`), "dense"
            and "uniform" are those of fine-tuning (`dense_frames`, `uniform_frames`).
        crop: how crop boxes are drawn: "multi-scale" or "random-resized".
        crop_areas: smallest and largest area of a "random-resized" crop, as fractions of the frame; only for that crop.
        hflip: flip half of the crops horizontally, but for sources whose `hflip` is False.
        resize: how a crop becomes a clip: "bilinear", "antialias" or "pillow", as in `CroppedClips`.
        reader: a key of READERS: "av", "decord" or "torchcodec".
        short_side: pixels; if positive, larger frames are scaled down to this shorter side, as in `open_video`.
        max_decoded_bytes: the most bytes that the decoded frames of a clip may take, as in `open_video`; a video that
            takes more cannot be read.
        max_replacements: how many other videos to try when one cannot be read.
        augmentation: cuts the clips, for RandAugment; its draws are a function of its own seed and the sample numbers.

    Raises:
        ValueError: an argument is out of range or unknown, or `annotations` is empty.
        UnreadableVideosError: from `dataset[...]`, if the video and `max_replacements` others (or all) are unreadable.

    References:
        HybridVideoMAE in datasets/pretrain_datasets.py and VideoClsDataset in dataset/datasets.py of VideoMAE V2, which
        replace bad videos without a report.
    """

    samplings: ClassVar[Mapping[str, Sampling]] = SAMPLINGS

    def __init__(
        self,
        annotations: Annotations | Mixture,
        *,
        num_frames: int,
        frame_stride: int,
        size: tuple[int, int],
        crops_per_video: int,
        seed: int,
        sampling: str = "strided",
        crop: str = "multi-scale",
        crop_areas: tuple[float, float] = AREAS,
        hflip: bool = False,
        resize: str = "antialias",
        reader: str = DEFAULT_READER,
        short_side: int = 0,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
        max_replacements: int = 10,
        augmentation: ClipAugmentation | None = None,
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
        for name, choice, known in (
            ("sampling", sampling, tuple(self.samplings)),
            ("crop", crop, tuple(CROP_BOXES)),
            ("resize", resize, RESIZES),
        ):
            if choice not in known:
                raise ValueError(f"{name} must be one of {known}, got {choice!r}")
        check_areas(crop_areas)
        if crop != "random-resized" and tuple(crop_areas) != AREAS:
            raise ValueError(f"crop_areas {crop_areas} needs crop 'random-resized', got {crop!r}")
        check_reader(reader, short_side, max_decoded_bytes)
        sample_rng(seed, 0)  # raises for a seed out of range here, not in a worker
        self.annotations = annotations if isinstance(annotations, Mixture) else Mixture([VideoSource(annotations)])
        self.num_frames, self.frame_stride, self.size = num_frames, frame_stride, (int(size[0]), int(size[1]))
        self.crops_per_video, self.seed = crops_per_video, seed
        self.sampling, self.crop, self.hflip, self.resize = sampling, crop, hflip, resize
        self.crop_areas = float(crop_areas[0]), float(crop_areas[1])
        self.reader, self.short_side, self.max_decoded_bytes = reader, short_side, max_decoded_bytes
        self.max_replacements, self.augmentation = max_replacements, augmentation

    def __len__(self) -> int:
        return self.annotations.epoch_length

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch:
        return self._sample(key)[1]

    def _sample(self, key: tuple[int, int]) -> tuple[Draw, ClipBatch]:
        start = time.perf_counter()
        index, sample_number = key
        drawn = self.draw(index, sample_number)
        first = sample_number * self.crops_per_video
        numbers = range(first, first + self.crops_per_video)
        clips, matrix = self._cut(drawn, numbers)
        sample, labels = torch.tensor(numbers), self._labels(drawn.index)
        seconds = time.perf_counter() - start
        return drawn, ClipBatch(clips, sample, labels, self.crops_per_video, drawn.bad_videos, seconds, matrix)

    def _cut(self, drawn: Draw, numbers: Sequence[int]) -> tuple[CroppedClips, torch.Tensor | None]:
        if self.augmentation is None:
            return cut_clips(drawn.frames, drawn.crops, self.size, self.resize), None
        return self.augmentation.cut(drawn.frames, drawn.crops, numbers, self.size, self.resize)

    def draw(self, index: int, sample_number: int) -> Draw:
        """Decode the frames and draw the crops of a sample.

        Args:
            index: the video to try first.
            sample_number: number of the sample; with the seed it decides everything random.

        Returns:
            Frames and crops, of video `index` or, if that one cannot be read, of another.

        Raises:
            UnreadableVideosError: video `index` and `max_replacements` others (or all) cannot be read.
        """
        tried: set[int] = set()
        bad_videos: list[BadVideo] = []
        for attempt in range(min(self.max_replacements + 1, len(self.annotations))):
            rng = sample_rng(self.seed, sample_number, attempt)
            while index in tried:
                index = int(rng.integers(len(self.annotations)))
            try:
                numbers, frames = self.decode(index, rng)
                sound = self.sound(index, sample_number)
            except VideoError as error:
                bad_videos.append(BadVideo(error.path, error.reason))
                tried.add(index)
                continue
            return Draw(index, numbers, frames, self._draw_crops(index, frames, rng), bad_videos, sound)
        listed = "".join(f"\n  {printable(bad_video.path)}: {bad_video.reason}" for bad_video in bad_videos)
        raise UnreadableVideosError(f"{len(bad_videos)} videos in a row could not be read:{listed}")

    def decode(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        """Decode the frames of one clip.

        Args:
            index: number of the video.
            rng: draws the frames.

        Returns:
            The numbers (T,) int64 of the frames, and their pixels uint8 (T, height, width, 3).

        Raises:
            VideoError: the video cannot be read.
        """
        source = self.annotations.source(index)
        entry, limit = self.annotations[index], self.max_decoded_bytes
        with closing(open_entry(entry, self.reader, self.short_side, source.template, limit)) as video:
            frame_stride = source.frame_stride or self.frame_stride
            numbers = self.samplings[self.sampling](video.num_frames, self.num_frames, frame_stride, rng)
            return numbers, torch.from_numpy(video.frames(numbers))

    def sound(self, index: int, sample_number: int) -> SoundClip | None:
        """Read the sound of a sample; None: a data set of clips alone has none.

        Args:
            index: number of the video.
            sample_number: number of the sample.

        Returns:
            None.
        """
        return None

    def _draw_crops(self, index: int, frames: torch.Tensor, rng: np.random.Generator) -> list[Crop]:
        _, height, width, _ = frames.shape
        flips = self.hflip and self.annotations.source(index).hflip
        areas = (self.crop_areas,) if self.crop == "random-resized" else ()
        box = CROP_BOXES[self.crop]
        return [
            Crop(box(height, width, self.size, rng, *areas), flips and bool(rng.integers(2)))
            for _ in range(self.crops_per_video)
        ]

    def _labels(self, index: int) -> torch.Tensor | None:
        """The label of a video, once for each of its clips."""
        if not self.annotations.has_labels:
            return None
        label = self.annotations[index].label
        return torch.full((self.crops_per_video,), -1 if label is None else label, dtype=torch.int64)
