import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae_fast.data import CropBox
from videomae_fast.data.augment import MixDraw, Mixer, mix, mixing_partners, smooth_targets

SIZE = (31, 45)


def clips(batch: int) -> Tensor:
    return torch.randn(batch, 3, 2, *SIZE, generator=torch.Generator().manual_seed(batch))


def test_smoothed_targets_of_k400() -> None:
    targets = smooth_targets(torch.tensor([3, 399]), 400, 0.1)
    assert targets.dtype == torch.float32 and targets.shape == (2, 400)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))
    assert targets[0, 3].item() == pytest.approx(0.90025) and targets[0, 4].item() == pytest.approx(0.00025)
    assert torch.equal(smooth_targets(torch.tensor([1]), 3), torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize(
    ("labels", "classes", "smoothing", "error", "message"),
    [
        ([0, 3], 3, 0.1, ValueError, r"labels must be in \[0, 3\), got values from 0 to 3"),
        ([-1], 3, 0.1, ValueError, r"got values from -1 to -1"),
        ([0], 0, 0.1, ValueError, "classes must be at least 1, got 0"),
        ([0], 3, 1.0, ValueError, r"smoothing must be in \[0, 1\), got 1.0"),
        ([0.0], 3, 0.1, TypeError, r"labels must be an int64 vector, got torch.float32 \(1,\)"),
        ([[0]], 3, 0.1, TypeError, r"got torch.int64 \(1, 1\)"),
    ],
)
def test_bad_labels_are_errors(labels: list, classes: int, smoothing: float, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        smooth_targets(torch.tensor(labels), classes, smoothing)


@pytest.mark.parametrize("crops", [1, 2, 3])
def test_no_video_meets_itself(crops: int) -> None:
    for videos in range(2, 9):
        partners = mixing_partners(videos, crops)
        assert all(clip // crops != partner // crops for clip, partner in enumerate(partners))
        if videos % 2 == 0:
            assert partners == list(range(videos * crops))[::-1]  # as published
    assert mixing_partners(1, crops) == list(range(crops))


def test_the_middle_video_meets_the_one_before() -> None:
    assert mixing_partners(3) == [2, 0, 0]
    assert mixing_partners(3, 2) == [5, 4, 0, 1, 1, 0]


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_mixup_is_the_published_sum(batch: int) -> None:
    source, targets = clips(batch), torch.eye(batch)
    partners = mixing_partners(batch)
    mixed, soft = mix(source.clone(), targets, MixDraw(0.3), partners)
    torch.testing.assert_close(mixed, 0.3 * source + 0.7 * source[partners])
    torch.testing.assert_close(soft, 0.3 * targets + 0.7 * targets[partners])


def test_cutmix_moves_one_box() -> None:
    source, targets = clips(4), torch.eye(4)
    mixed, soft = mix(source.clone(), targets, MixDraw(0.8, CropBox(4, 5, 9, 31)), [3, 2, 1, 0])
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:13, 5:36] = True
    assert torch.equal(mixed, torch.where(inside, source.flip(0), source))
    torch.testing.assert_close(soft, 0.8 * targets + 0.2 * targets.flip(0))


def test_the_box_has_the_published_sides_and_share() -> None:
    """⌊side·√(1 − λ)⌋ // 2 on both sides of the centre, clipped, and λ the share outside."""
    mixer = Mixer(classes=2, cutmix=1.0)
    heights, centers = [], []
    for sample in range(4000):
        draw = mixer.draw(SIZE, sample)
        assert draw is not None and draw.box is not None
        top, left, height, width = draw.box
        assert 0 <= top <= top + height <= 31 and 0 <= left <= left + width <= 45
        assert draw.share == pytest.approx(1 - height * width / (31 * 45))
        if top > 0 and top + height < 31:
            assert height % 2 == 0
            heights.append(height)
            centers.append(top + height // 2)
    assert max(heights) == 28 and min(centers) < 5 and max(centers) > 25
    # λ is uniform for α = 1, and ⌊31·√u⌋ // 2·2 = 0 needs √u < 2 / 31.
    empty = sum(mixer.draw(SIZE, sample).share == 1 for sample in range(4000))  # type: ignore[union-attr]
    assert empty < 60


def test_shares_have_the_published_distribution() -> None:
    mixer = Mixer(classes=2, mixup=0.8, cutmix=1.0, probability=0.9, switch=0.4)
    draws = [mixer.draw(SIZE, sample) for sample in range(6000)]
    mixed = [draw for draw in draws if draw is not None]
    assert abs(len(mixed) - 5400) < 5 * math.sqrt(6000 * 0.9 * 0.1)
    cut = sum(draw.box is not None for draw in mixed)
    assert abs(cut - 0.4 * len(mixed)) < 5 * math.sqrt(len(mixed) * 0.24)
    shares = np.array([draw.share for draw in mixed if draw.box is None])
    assert abs(shares.mean() - 0.5) < 0.03
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06)  # of Beta(α, α)


def test_draws_depend_on_seed_and_first_sample() -> None:
    settings: dict[str, Any] = {"classes": 3, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}
    labels, sample = torch.tensor([0, 1, 2]), torch.tensor([12, 13, 14])
    mixed, soft = Mixer(**settings)(clips(3), labels, sample)
    again, soft_again = Mixer(**settings)(clips(3), labels, sample)
    assert torch.equal(mixed, again) and torch.equal(soft, soft_again)
    assert Mixer(**settings).draw(SIZE, 12) != Mixer(**settings).draw(SIZE, 13)
    assert Mixer(**settings).draw(SIZE, 12) != Mixer(**settings, seed=1).draw(SIZE, 12)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(3))


def test_the_target_follows_the_pixels() -> None:
    """Clips that are constant: what is seen of each clip is its weight in the target, box or not."""
    mixer = Mixer(classes=4, mixup=0.8, cutmix=1.0)
    for first in range(20):
        source = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(-1, 3, 2, *SIZE).contiguous()
        mixed, soft = mixer(source, torch.arange(4), torch.arange(first, first + 4))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3, 4)), soft @ torch.arange(4.0), rtol=1e-4, atol=1e-4)


def test_lone_videos_are_not_mixed() -> None:
    source = clips(2)
    mixed, soft = Mixer(classes=2, mixup=1.0)(source.clone(), torch.tensor([1, 1]), torch.tensor([0, 1]), 2)
    assert torch.equal(mixed, source) and torch.equal(soft, torch.tensor([[0.0, 1.0]] * 2))


def test_no_value_is_read_back() -> None:
    """A meta tensor has no values: whatever would make the host wait for a GPU raises."""
    mixer = Mixer(classes=5, mixup=0.8, cutmix=1.0, smoothing=0.1)
    for first in range(6):
        labels = torch.empty(3, dtype=torch.int64, device="meta")
        mixed, soft = mixer(clips(3).to("meta"), labels, torch.arange(first, first + 3))
        assert mixed.shape == (3, 3, 2, *SIZE) and soft.shape == (3, 5)


def test_without_mixing_only_targets_are_made() -> None:
    mixer = Mixer(classes=2, smoothing=0.1)
    assert not mixer.mixes and not Mixer(classes=2, mixup=1, probability=0).mixes and Mixer(classes=2, cutmix=1).mixes
    source = clips(3)
    mixed, soft = mixer(source.clone(), torch.tensor([1, 0, 1]), torch.arange(3))
    assert torch.equal(mixed, source) and torch.equal(soft, smooth_targets(torch.tensor([1, 0, 1]), 2, 0.1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mixup": -0.1}, "mixup must be 0 or a positive alpha, got -0.1"),
        ({"cutmix": -1}, "cutmix must be 0 or a positive alpha, got -1"),
        ({"probability": 1.1}, r"probability must be in \[0, 1\], got 1.1"),
        ({"switch": -0.5}, r"switch must be in \[0, 1\], got -0.5"),
        ({"smoothing": 1}, r"smoothing must be in \[0, 1\), got 1"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1"),
    ],
)
def test_bad_settings_are_errors(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixer(**{"classes": 2, **bad})


def test_bad_batches_are_errors() -> None:
    with pytest.raises(ValueError, match="targets and partners must be as many as the 3 clips, got 2 and 3"):
        mix(clips(3), torch.eye(2), MixDraw(0.5), [2, 1, 0])
    mixer = Mixer(classes=3, mixup=1.0)
    with pytest.raises(ValueError, match="crops_per_video = 2 does not divide the 3 clips"):
        mixer(clips(3), torch.arange(3), torch.arange(3), 2)
    with pytest.raises(ValueError, match="sample must be on the host, which draws, got a tensor on meta"):
        mixer(clips(3), torch.arange(3), torch.arange(3, device="meta"))
