"""The published fine-tuning clip: erasing comes last, and every op has an argument. The ops: tests/data/augment."""

import numpy as np
import pytest
import torch

from benchmarks.baselines.published.rand_augment import OPS, op_argument, published_clip


def test_erased_boxes_are_noise_of_every_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 90, 120, 3), dtype=np.uint8)
    plain, erased = (published_clip(frames, (3, 5, 60, 80), True, (64, 64), (), box) for box in (None, (8, 4, 40, 50)))
    box = torch.zeros(64, 64, dtype=torch.bool)
    box[8:48, 4:54] = True
    assert torch.equal((plain != erased).any(0).any(0), box)
    noise = erased[:, :, box]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_arguments() -> None:
    found = {op: op_argument(op, 7.0, negative=True) for op in OPS}
    assert found["rotate"] == pytest.approx(-21) and found["translate_x"] == pytest.approx(-0.315)
    assert (found["posterize"], found["solarize"], found["solarize_add"], found["invert"]) == (2, 77, 77, 0)
    assert found["color"] == pytest.approx(0.37) and found["shear_y"] == pytest.approx(-0.21)
    with pytest.raises(ValueError, match=r"op must be one of .*, got 'blur'"):
        op_argument("blur", 7.0, False)
