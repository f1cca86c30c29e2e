"""The loaders of fine-tuning: the same frames, crop boxes, RandAugment ops and erased boxes for all.

The published loader makes finished clips. Ours sends regions of uint8 frames, and the device resamples, recolours,
normalises and erases them; with `--augment pillow`, RandAugment runs in the worker as published.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines.published.loss import IMAGENET_STD
from benchmarks.baselines.published.rand_augment import published_clip
from benchmarks.harness.run import DisagreementError
from benchmarks.loader.contenders import (
    CONFIG,
    FRAME_STRIDE,
    OURS,
    PUBLISHED,
    SEED,
    Loader,
    LoaderCase,
    Pair,
    TimedDataset,
)
from benchmarks.loader.videos import make_videos
from videomae_fast.data import ClipBatch, read_mixture
from videomae_fast.data.augment import ClipAugmentation, ErasingDraw, draw_erasing
from videomae_fast.data.seeding import ERASING, augmentation_rng

POLICY, ERASED, AREAS = "rand-m7-n4-mstd0.5-inc1", 0.25, (0.08, 1.0)  # published
PILLOW = "videomae_fast, pillow"
CHECKED = 4  # videos whose pixels are compared
# In units of 1/255: the published code normalises before it resizes, and float32 positions in large frames are coarse.
LIMIT = 0.05


def _collate(videos: Sequence[Sequence[Tensor]]) -> tuple[Tensor]:
    """All clips of all videos as one batch; the published loader stacks them one by one."""
    return (torch.stack([clip for clips in videos for clip in clips]),)


class FinetuningDataset(TimedDataset):
    """A TimedDataset whose published rival augments, too."""

    published_collate: Callable[[Any], Any] = staticmethod(_collate)

    def published(self, pair: Pair) -> Sequence[Tensor]:
        """What the published loader makes of the draws of `self[pair]`."""
        drawn, first = self.draw(*pair), pair[1] * self.crops_per_video
        frames = drawn.frames.numpy()
        clips = []
        for number, crop in enumerate(drawn.crops, start=first):
            assert self.augmentation is not None
            erased = self.erasing(number)
            ops, box = self.augmentation.draw(number), erased and erased.box
            clips.append(published_clip(frames, crop.box, crop.flipped, self.size, ops, box))
        return clips

    def erasing(self, number: int) -> ErasingDraw | None:
        """The erased box of a sample, as `ClipAugmentation` draws it."""
        assert self.augmentation is not None
        rng = augmentation_rng(self.augmentation.seed, number, ERASING)
        return draw_erasing(self.size, self.augmentation.erasing, rng)


@dataclass(frozen=True)
class FinetuningCase(LoaderCase):
    """Batches of augmented clips, as published fine-tuning makes them."""

    def augmented(self, folder: Path, backend: str, erasing: float = ERASED, seed: int = SEED) -> FinetuningDataset:
        """The videos of the case; `seed` draws the augmentation, frames and boxes are always the same."""
        stats = {"mean": CONFIG.pixel_mean, "std": CONFIG.pixel_std}
        return FinetuningDataset(
            read_mixture(self.own) if self.own else make_videos(self.name, folder),
            num_frames=CONFIG.num_frames,
            frame_stride=FRAME_STRIDE,
            size=CONFIG.image_size,
            crops_per_video=self.crops_per_video,
            seed=SEED,
            sampling="dense",
            crop="random-resized",
            crop_areas=AREAS,
            hflip=True,
            resize="bilinear",
            max_replacements=0,
            augmentation=ClipAugmentation(POLICY, erasing, seed=seed, backend=backend, **stats),
        )

    @property
    def variants(self) -> tuple[str, ...]:
        return PUBLISHED, OURS, PILLOW

    def loaders(self, folder: Path) -> dict[str, Loader]:
        device, pillow = (self.augmented(folder, backend) for backend in ("device", "pillow"))
        return {PUBLISHED: Loader(PUBLISHED, device), OURS: Loader(OURS, device), PILLOW: Loader(PILLOW, pillow)}

    def check(self, folder: Path) -> dict[str, float]:
        """Differences of pixels, of 255, from the published clips, without erasing: "pillow" the largest, "device" the
        mean, and "other draws" the mean of published clips with other RandAugment ops.

        DisagreementError if "pillow" is beyond rounding, or "device" as far as "other draws".
        """
        pillow, device = (self.augmented(folder, backend, erasing=0.0) for backend in ("pillow", "device"))
        other = self.augmented(folder, "pillow", erasing=0.0, seed=SEED + 1)
        pairs = self.pairs(device, 0)[:CHECKED]
        (expected,), (elsewhere,) = (Loader(PUBLISHED, dataset)(pairs) for dataset in (pillow, other))
        exact, alike = (
            in_levels(device_side(dataset, Loader(OURS, dataset)(pairs)) - expected) for dataset in (pillow, device)
        )
        error = {
            "pillow": float(exact.max()),
            "device": float(alike.mean()),
            "other draws": float(in_levels(elsewhere - expected).mean()),
        }
        if not error["pillow"] <= LIMIT or not error["device"] < error["other draws"] / 2:  # NaN is no agreement
            raise DisagreementError(f"augmented clips are not the published ones, so nothing was timed: {error} of 255")
        return error

    def __str__(self) -> str:
        return f"fine-tuning, {super().__str__()}"


def device_side(dataset: FinetuningDataset, batch: ClipBatch) -> Tensor:
    """What the device makes of a batch of ours: (B, 3, T, H, W) float32, normalised."""
    assert dataset.augmentation is not None
    return dataset.augmentation(batch.clips, batch.sample, batch.matrix)


def in_levels(difference: Tensor) -> Tensor:
    """A difference of normalised clips in units of 1/255 of the range of pixels, without its sign."""
    return difference.abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1, 1) * 255
