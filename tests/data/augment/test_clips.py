"""`ClipAugmentation`: worker and device side together."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import videomae_kernels
from benchmarks.baselines.published.rand_augment import published_clip
from videomae_fast.data import Crop, CropBox
from videomae_fast.data.augment import ClipAugmentation, RandAugment, clean_clips
from videomae_fast.data.augment.pillow import pillow_frames
from videomae_fast.data.augment.policy import FILL
from videomae_fast.data.crops import crop_resize
from videomae_kernels import cat_clips

STATS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
POLICY = "rand-m7-n4-mstd0.5-inc1"
SIZE = (64, 80)  # large enough that no region is shrunk
CROPS = [Crop(CropBox(2, 3, 50, 70), False), Crop(CropBox(11, 20, 33, 41), True)]


def augmented(augmentation: ClipAugmentation, frames: Tensor, samples: list[int]) -> Tensor:
    """Every second clip has the second crop."""
    crops = [CROPS[sample % 2] for sample in samples]
    clips, matrix = augmentation.cut(frames, crops, samples, SIZE)
    return augmentation(clips, torch.tensor(samples), matrix)


def test_needs_tensor_only_where_the_device_changes_pixels() -> None:
    assert not ClipAugmentation(**STATS).needs_tensor
    assert not ClipAugmentation(POLICY, backend="pillow", **STATS).needs_tensor
    assert ClipAugmentation(POLICY, **STATS).needs_tensor and ClipAugmentation(erasing=0.1, **STATS).needs_tensor


@pytest.mark.parametrize("crop", CROPS)
def test_without_augmentation_clips_are_the_published_ones(frames: Tensor, crop: Crop) -> None:
    plain = ClipAugmentation(**STATS)
    clips, matrix = plain.cut(frames, [crop], [0], SIZE)
    assert matrix is None
    expected = published_clip(frames.numpy(), crop.box, crop.flipped, SIZE, ())
    torch.testing.assert_close(plain(clips, torch.tensor([0]))[0], expected, rtol=1e-4, atol=1e-4)


def test_pillow_makes_the_published_clips(frames: Tensor) -> None:
    augmentation = ClipAugmentation(POLICY, backend="pillow", seed=4, **STATS)
    done = augmented(augmentation, frames, list(range(12)))
    for sample, clip in enumerate(done):
        crop = CROPS[sample % 2]
        expected = published_clip(frames.numpy(), crop.box, crop.flipped, SIZE, augmentation.draw(sample))
        torch.testing.assert_close(clip, expected, rtol=1e-4, atol=1e-4)


def test_both_backends_apply_the_same_draws(frames: Tensor) -> None:
    """Not equal: statistics are of the crop. But far closer than clips of other draws."""
    samples = list(range(40))
    device = augmented(ClipAugmentation(POLICY, seed=4, **STATS), frames, samples)
    pillow = augmented(ClipAugmentation(POLICY, seed=4, backend="pillow", **STATS), frames, samples)
    other = augmented(ClipAugmentation(POLICY, seed=5, backend="pillow", **STATS), frames, samples)
    distance = (device - pillow).abs().mean(dim=(1, 2, 3, 4))
    assert distance.median() < 0.1 and distance.mean() < 0.35 * (device - other).abs().mean()


def test_clips_do_not_depend_on_the_batch(frames: Tensor) -> None:
    augmentation = ClipAugmentation(POLICY, erasing=0.5, seed=1, **STATS)
    samples = list(range(10))
    together = augmented(augmentation, frames, samples)
    alone = torch.cat([augmented(augmentation, frames, [sample]) for sample in samples])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], augmented(augmentation, frames, [2])[0])


def test_parts_of_videos_are_joined_as_a_loader_does(frames: Tensor) -> None:
    augmentation = ClipAugmentation(POLICY, seed=1, **STATS)
    parts = [augmentation.cut(frames[:, : 61 - 4 * v], CROPS, [2 * v, 2 * v + 1], SIZE) for v in range(3)]
    joined = cat_clips([clips for clips, _ in parts])
    matrix = torch.cat([one for _, one in parts if one is not None])
    done = augmentation(joined, torch.arange(6), matrix)
    alone = [augmentation(part, torch.tensor([2 * v, 2 * v + 1]), one) for v, (part, one) in enumerate(parts)]
    assert torch.equal(done, torch.cat(alone)) and done.shape == (6, 3, 3, *SIZE)


def test_erasing_comes_after_normalisation(frames: Tensor) -> None:
    plain = augmented(ClipAugmentation(**STATS), frames, [0, 1])
    erased = augmented(ClipAugmentation(erasing=1.0, **STATS), frames, [0, 1])
    changed = (plain != erased).flatten(1).double().mean(dim=1)
    assert ((changed > 0.01) & (changed < 0.35)).all()


def test_the_policy_is_read_and_a_worker_gets_a_copy(frames: Tensor) -> None:
    augmentation = ClipAugmentation(POLICY, erasing=0.25, seed=3, **STATS)
    assert augmentation.policy == RandAugment(7, 4, 0.5) and ClipAugmentation(**STATS).draw(3) == ()
    copy = pickle.loads(pickle.dumps(augmentation))
    assert [copy.draw(sample) for sample in range(20)] == [augmentation.draw(sample) for sample in range(20)]


def test_half_precision_is_rounded_last(frames: Tensor) -> None:
    augmentation = ClipAugmentation(POLICY, **STATS)
    clips, matrix = augmentation.cut(frames, CROPS, [0, 1], SIZE)
    full = augmentation(clips, torch.tensor([0, 1]), matrix)
    half = augmentation(clips, torch.tensor([0, 1]), matrix, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, full.bfloat16())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rand_augment": "rand-m7"}, "rand_augment needs inc1"),
        ({"backend": "gpu"}, r"backend must be one of \('device', 'pillow'\), got 'gpu'"),
        ({"erasing": 1.5}, r"erasing must be a probability in \[0, 1\], got 1.5"),
        ({"seed": -1}, r"seed must be in"),
    ],
)
def test_bad_settings_are_errors(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipAugmentation(**{**STATS, **bad})


def test_clean_clips_have_the_geometry_alone(frames: Tensor) -> None:
    augmentation, plain = ClipAugmentation(POLICY, **STATS), ClipAugmentation(**STATS)
    clips, matrix = augmentation.cut(frames, CROPS, [0, 1], SIZE)
    assert matrix is not None
    assert torch.equal(clean_clips(clips, matrix), videomae_kernels.warp_clips(clips, matrix, fill=FILL))
    clips, matrix = plain.cut(frames, CROPS, [0, 1], SIZE)
    assert matrix is None and clean_clips(clips) is clips


def test_bad_calls_are_errors(frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation, plain = ClipAugmentation(POLICY, **STATS), ClipAugmentation(**STATS)
    clips, matrix = augmentation.cut(frames, CROPS, [0, 1], SIZE)
    with pytest.raises(ValueError, match="one number for each of 2 crops, got 1"):
        augmentation.cut(frames, CROPS, [0], SIZE)
    with pytest.raises(ValueError, match="one number for each of 2 clips, got 3"):
        augmentation(clips, torch.arange(3), matrix)
    with pytest.raises(ValueError, match="sample must be on the host, which draws, got a tensor on meta"):
        augmentation(clips, torch.arange(2, device="meta"), matrix)
    with pytest.raises(ValueError, match="matrix goes with RandAugment on the device, which is True; it has none"):
        augmentation(clips, torch.arange(2))
    with pytest.raises(ValueError, match=r"which is False; it is \(2, 2, 3\)"):
        plain(clips, torch.arange(2), matrix)
    with pytest.raises(ValueError, match=r"cannot cut|does not lie"):
        plain.cut(frames, [Crop(CropBox(0, 0, 99, 9), False)], [0], SIZE)
    with pytest.raises(ValueError, match="does not lie in frames"):
        augmentation.cut(frames, [Crop(CropBox(0, 0, 99, 9), False)], [0], SIZE)
    assert videomae_kernels.warp_clips(clips, matrix).shape == (2, 3, 3, *SIZE)


def test_pillow_sends_no_more_than_twice_the_clip_of_large_frames() -> None:
    """A large crop is resized in the worker; the pixels are those of the resize by the ops, rounded."""
    large = torch.randint(0, 256, (2, 120, 160, 3), dtype=torch.uint8)
    crop = Crop(CropBox(4, 6, 100, 140), False)
    augmentation = ClipAugmentation("rand-m0-n1-inc1", mean=(0.0,) * 3, std=(1.0,) * 3, backend="pillow")
    clips, _ = augmentation.cut(large, [crop], [0], (32, 32))
    assert clips.frames.numel() == 2 * 32 * 32 * 3
    frames = pillow_frames(large, augmentation.draw(0))
    expected = crop_resize(frames, crop.box, (32, 32), "bilinear")
    assert torch.equal(clips.frames.view(2, 32, 32, 3), expected)
