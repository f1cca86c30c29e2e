import math

import numpy as np
import pytest
import torch

from videomae_fast.data import CropBox
from videomae_fast.data.augment import ErasingDraw, draw_erasing, erase
from videomae_fast.data.seeding import ERASING, augmentation_rng

SIZE = (90, 120)


def test_boxes_have_the_published_distribution() -> None:
    draws = [draw_erasing(SIZE, 0.25, augmentation_rng(0, sample, ERASING)) for sample in range(8000)]
    boxes = [draw.box for draw in draws if draw]
    assert abs(len(boxes) - 2000) < 5 * math.sqrt(8000 * 0.25 * 0.75)
    areas = np.array([box.height * box.width for box in boxes]) / (90 * 120)
    aspects = np.array([box.height / box.width for box in boxes])
    assert areas.min() > 0.018 and areas.max() < 0.34
    assert aspects.min() > 0.27 and aspects.max() < 3.7
    # Boxes that do not fit are drawn again, which makes large and oblong ones rarer.
    assert 0.16 < areas.mean() < 0.177
    assert np.log(aspects).std() == pytest.approx(math.log(1 / 0.3) * 2 / math.sqrt(12), abs=0.06)
    for box in boxes:
        assert 0 <= box.top <= 90 - box.height and 0 <= box.left <= 120 - box.width
    assert {box.top == 90 - box.height for box in boxes} == {True, False}  # the last place is drawn, too


def test_draws_depend_on_seed_and_sample_only() -> None:
    draw = draw_erasing(SIZE, 1.0, augmentation_rng(0, 5, ERASING))
    assert draw is not None and draw == draw_erasing(SIZE, 1.0, augmentation_rng(0, 5, ERASING))
    assert draw != draw_erasing(SIZE, 1.0, augmentation_rng(0, 6, ERASING))
    assert draw_erasing(SIZE, 0.0, augmentation_rng(0, 5, ERASING)) is None
    assert draw_erasing((1, 1), 1.0, augmentation_rng(0, 5, ERASING)) is None  # no box is smaller


def test_boxes_become_noise_and_the_rest_stays() -> None:
    before = torch.rand(3, 3, 4, 40, 50)
    draw = ErasingDraw(CropBox(3, 7, 30, 35), 11)
    done = erase(before.clone(), [None, draw, None])
    assert torch.equal(done[[0, 2]], before[[0, 2]])
    inside = done[1, :, :, 3:33, 7:42].clone()
    done[1, :, :, 3:33, 7:42] = before[1, :, :, 3:33, 7:42]
    assert torch.equal(done, before)
    assert abs(inside.mean()) < 0.06 and abs(inside.std() - 1) < 0.05
    frames = inside.transpose(0, 1).flatten(1)
    assert torch.corrcoef(frames).fill_diagonal_(0).abs().max() < 0.1  # new noise in every frame


def test_noise_does_not_depend_on_the_batch() -> None:
    draws = [ErasingDraw(CropBox(1, 2, 9, 8), 5), ErasingDraw(CropBox(0, 0, 4, 6), 6)]
    together = erase(torch.zeros(2, 3, 2, 16, 16), draws)
    alone = torch.cat([erase(torch.zeros(1, 3, 2, 16, 16), [draw]) for draw in draws])
    assert torch.equal(together, alone)
    assert torch.equal(erase(torch.zeros(2, 3, 2, 16, 16, dtype=torch.bfloat16), draws), together.bfloat16())


def test_bad_clips_are_errors() -> None:
    with pytest.raises(TypeError, match=r"clips must be floating and normalised, got torch.uint8"):
        erase(torch.zeros(1, 3, 1, 4, 4, dtype=torch.uint8), [None])
    with pytest.raises(ValueError, match="one entry for each of 1 clips, got 2"):
        erase(torch.zeros(1, 3, 1, 4, 4), [None, None])
