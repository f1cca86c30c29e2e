import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.baselines.published import rand_augment as published
from videomae_fast.data.augment import AppliedOp
from videomae_fast.data.augment.pillow import pillow_frames
from videomae_fast.data.augment.policy import OPS, op_value


def as_published(frames: Tensor, ops: list[tuple[str, float, bool]]) -> Tensor:
    images = [Image.fromarray(frame) for frame in frames.numpy()]
    for op, magnitude, negative in ops:
        images = [published.apply_op(image, op, magnitude, negative) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])


def test_the_ops_are_the_published_ones() -> None:
    assert OPS == published.OPS


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("negative", [False, True])
def test_every_op_is_the_published_one(frames: Tensor, op: str, negative: bool) -> None:
    for magnitude in (0.0, 3.1, 7.0, 7.6, 9.9):
        drawn = AppliedOp(op, op_value(op, magnitude, negative))
        assert torch.equal(pillow_frames(frames, (drawn,)), as_published(frames, [(op, magnitude, negative)]))


def test_ops_are_applied_in_order(frames: Tensor) -> None:
    chooser = random.Random(0)
    for _ in range(10):
        ops = [(op, chooser.gauss(7, 0.5), chooser.random() < 0.5) for op in chooser.choices(OPS, k=4)]
        draw = tuple(AppliedOp(op, op_value(op, magnitude, negative)) for op, magnitude, negative in ops)
        assert torch.equal(pillow_frames(frames, draw), as_published(frames, ops))


def test_an_empty_draw_copies_nothing(frames: Tensor) -> None:
    assert pillow_frames(frames, ()) is frames


def test_other_frames_are_errors(frames: Tensor) -> None:
    with pytest.raises(TypeError, match=r"frames must be uint8, got torch.float32"):
        pillow_frames(frames.float(), ())
    with pytest.raises(ValueError, match=r"frames must be \(T, H, W, 3\), got \(61, 83, 3\)"):
        pillow_frames(frames[0], ())
