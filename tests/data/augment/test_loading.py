"""Augmentation through the data set, the loader and the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.data import ClipBatch, ClipDataset, collate, make_loader, read_annotations
from videomae_fast.data.augment import ClipAugmentation

STATS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
POLICY = "rand-m7-n4-mstd0.5-inc1"


def dataset_of(folder: Path, augmentation: ClipAugmentation | None) -> ClipDataset:
    options: dict[str, Any] = {"num_frames": 4, "frame_stride": 2, "crops_per_video": 2, "seed": 3, "hflip": True}
    return ClipDataset(read_annotations(folder), size=(64, 80), resize="bilinear", augmentation=augmentation, **options)


def augmented(augmentation: ClipAugmentation, batch: ClipBatch) -> torch.Tensor:
    return augmentation(batch.clips, batch.sample, batch.matrix)


@pytest.mark.parametrize("backend", ["device", "pillow"])
def test_clips_are_functions_of_their_sample_numbers(clips: Path, backend: str) -> None:
    augmentation = ClipAugmentation(POLICY, erasing=0.3, seed=5, backend=backend, **STATS)
    dataset = dataset_of(clips, augmentation)
    samples = [dataset[(video, 7 * video)] for video in range(4)]
    together = augmented(augmentation, collate(samples))
    assert together.shape == (8, 3, 4, 64, 80)
    assert torch.equal(together, torch.cat([augmented(augmentation, sample) for sample in samples]))
    assert samples[2].sample.tolist() == [28, 29] and not torch.equal(together[4], together[5])


def test_workers_make_the_same_clips(clips: Path) -> None:
    augmentation = ClipAugmentation(POLICY, seed=5, **STATS)
    batches = [
        next(iter(make_loader(dataset_of(clips, augmentation), batch_size=3, workers=workers))) for workers in (0, 1)
    ]
    assert batches[0].matrix is not None and batches[0].matrix.shape == (6, 2, 3)
    assert torch.equal(*(augmented(augmentation, batch) for batch in batches))


def test_without_a_policy_on_the_device_clips_are_their_own(clips: Path) -> None:
    plain = dataset_of(clips, None)[(1, 4)]
    for augmentation in (ClipAugmentation(**STATS), ClipAugmentation(erasing=0.5, **STATS)):
        sample = dataset_of(clips, augmentation)[(1, 4)]
        assert sample.matrix is None and torch.equal(sample.clips.frames, plain.clips.frames)
        assert torch.equal(sample.clips.weights, plain.clips.weights)


def test_matrices_go_with_their_clips(clips: Path) -> None:
    augmentation = ClipAugmentation(POLICY, seed=5, **STATS)
    dataset = dataset_of(clips, augmentation)
    batch = collate([dataset[(video, video)] for video in range(4)])
    assert batch.matrix is not None and batch.to("meta").matrix.device.type == "meta"  # type: ignore[union-attr]
    parts = [augmented(augmentation, part) for part in batch.split(2)]
    assert torch.equal(torch.cat(parts), augmented(augmentation, batch))
    with pytest.raises(ValueError, match="batches must all have a matrix or none, got 1 of 2 with one"):
        collate([dataset[(0, 0)], dataset_of(clips, None)[(0, 0)]])
