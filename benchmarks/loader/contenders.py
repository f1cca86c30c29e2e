"""The loaders that are compared: the same frames from the same reader, the same crop boxes, the same rounds."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines.published.loader import published_collate, published_samples
from benchmarks.harness.measure import device_name
from benchmarks.loader.agreement import LIMITS, check_same_pixels
from benchmarks.loader.videos import make_videos
from videomae_fast.data import DEFAULT_READER, ClipBatch, ClipDataset, collate, read_mixture, sample_rng
from videomae_fast.models import get_config

CONFIG, FRAME_STRIDE, SEED = get_config("base"), 4, 0
PUBLISHED, OURS = VARIANTS = ("published", "videomae_fast")
PARTS = ("decode", "augment", "collate")
CHECKED = 2  # videos whose pixels are compared: making all of a clip's takes up to a second

Pair = tuple[int, int]  # (index of the video, sample number)


class TimedDataset(ClipDataset):
    """A ClipDataset that notes the processor time of decoding, and its published rival."""

    decode_seconds = 0.0
    published_collate: Callable[[Any], Any] = staticmethod(published_collate)

    def decode(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        start = time.process_time()
        decoded = super().decode(index, rng)
        self.decode_seconds += time.process_time() - start
        return decoded

    def published(self, pair: Pair) -> Sequence[Any]:
        """What the published loader makes of the frames and boxes of `self[pair]`."""
        drawn = self.draw(*pair)
        boxes = [crop.box for crop in drawn.crops]
        return published_samples(drawn.frames.numpy(), boxes, self.size, CONFIG.grid, sample_rng(self.seed, pair[1]))


@dataclass(frozen=True)
class LoaderCase:
    """Batches that both loaders make."""

    name: str  # a size of `make_videos`, or the name of the user's own list
    rounds: int  # batches
    videos: int  # per batch
    crops_per_video: int  # clips of each video
    own: Path | None = None  # the user's own videos

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the loaders, the published one first."""
        return VARIANTS

    @property
    def clips(self) -> int:
        """Clips of a batch."""
        return self.videos * self.crops_per_video

    def dataset(self, folder: Path, resize: str) -> TimedDataset:
        """The videos of the case, written into `folder` if they are not the user's own."""
        return TimedDataset(
            read_mixture(self.own) if self.own else make_videos(self.name, folder),
            num_frames=CONFIG.num_frames,
            frame_stride=FRAME_STRIDE,
            size=CONFIG.image_size,
            crops_per_video=self.crops_per_video,
            seed=SEED,
            resize=resize,
            max_replacements=0,  # an unreadable video is an error: a replacement would change the clips
        )

    def loaders(self, folder: Path) -> "dict[str, Loader]":
        """The loaders by name."""
        dataset = self.dataset(folder, "antialias")
        return {name: Loader(name, dataset) for name in VARIANTS}

    def check(self, folder: Path) -> dict[str, float]:
        """The largest differences of pixels by `resize`; DisagreementError if they are too large."""
        return {resize: self._check(self.dataset(folder, resize)) for resize in LIMITS}

    def _check(self, dataset: TimedDataset) -> float:
        pairs = self.pairs(dataset, 0)[:CHECKED]
        published, ours = (Loader(name, dataset)(pairs) for name in VARIANTS)
        return check_same_pixels(ours.clips, published.clip, CONFIG.patch)

    def pairs(self, dataset: ClipDataset, round_number: int) -> list[Pair]:
        """The (video, sample number) pairs of a round's batch: new in each round, the same for both loaders."""
        order = dataset.annotations.order(SEED, epoch=0)
        return [
            (int(order[number % len(order)]), number)
            for number in range(round_number * self.videos, (round_number + 1) * self.videos)
        ]

    def __str__(self) -> str:
        height, width = CONFIG.image_size
        crops = f"{self.crops_per_video} crop{'s' if self.crops_per_video > 1 else ''} per video"
        clip = f"{CONFIG.num_frames}x{height}x{width}"
        return f"{self.rounds} batches of {self.videos} videos, {crops}, {clip}, {DEFAULT_READER}"


class Loader:
    """A loader of one case: calling it makes a batch and records its time and bytes."""

    def __init__(self, variant: str, dataset: TimedDataset) -> None:
        self.dataset = dataset
        # `load` returns what `collate` takes; the types cannot express that the two belong together.
        self.load: Callable[[Pair], Any] = dataset.published if variant == PUBLISHED else dataset.__getitem__
        self.collate: Callable[[Any], Any] = dataset.published_collate if variant == PUBLISHED else collate
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}  # of each batch
        self.sent: list[int] = []  # bytes that each batch brings to the GPU

    def __call__(self, pairs: Sequence[Pair]) -> Any:
        """A batch: ClipBatch, or what the published loader makes."""
        decoded, start = self.dataset.decode_seconds, time.process_time()
        videos = [self.load(pair) for pair in pairs]
        loaded, decode = time.process_time(), self.dataset.decode_seconds - decoded
        batch = self.collate(videos)
        for part, seconds in zip(PARTS, (decode, loaded - start - decode, time.process_time() - loaded), strict=True):
            self.seconds[part].append(seconds)
        self.sent.append(bytes_to_device(batch))
        return batch

    def figures(self, clips: int) -> dict[str, float]:
        """Of one clip, over all batches so far, of `clips` each. Bytes are a mean: they depend on the crop boxes."""
        parts = {f"{part}_ms": statistics.median(self.seconds[part]) * 1e3 / clips for part in PARTS}
        return parts | {"bytes_to_device_per_clip": statistics.fmean(self.sent) / clips}


class LoaderContenders:
    """The loaders of one case at a time, checked when the case begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # for videos
        self.case: LoaderCase | None = None

    def ready(self, case: LoaderCase, variant: str) -> tuple[Loader, dict[str, Any]]:
        """The named loader, and what its record begins with."""
        if case != self.case:
            self.error = case.check(self.folder)
            self.case, self.loaders = case, case.loaders(self.folder)
        record = {
            "suite": "loader",
            "name": case.name,
            "case": str(case),
            "variant": variant,
            "predicted": False,
            "processor": device_name(torch.device("cpu")),
            "clips": case.clips,
        }
        return self.loaders[variant], record | ({"error": self.error} if variant == OURS else {})


def bytes_to_device(batch: ClipBatch | Sequence[Tensor]) -> int:
    """All that a training step needs of a batch but labels; our masks are made on the GPU from the sample numbers."""
    if isinstance(batch, ClipBatch):
        return batch.clips.nbytes + batch.sample.nbytes + (0 if batch.matrix is None else batch.matrix.nbytes)
    return sum(tensor.nbytes for tensor in batch)
