import numpy as np
import pytest
import torch
from torch import Tensor

from videomae_fast.data.augment import AppliedOp, RandAugment
from videomae_fast.data.augment.color import apply_color
from videomae_fast.data.augment.pillow import pillow_frames
from videomae_fast.data.augment.policy import GEOMETRIC, OPS, RandAugmentDraw, op_value
from videomae_fast.data.seeding import RAND_AUGMENT, augmentation_rng

COLOR = [op for op in OPS if op not in GEOMETRIC]


def as_clips(sources: list[Tensor]) -> Tensor:
    return torch.stack([frames.permute(3, 0, 1, 2) for frames in sources]).float()


def random_frames(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Two frames: all values between two bounds, or a peak, so that histograms have gaps and single bins."""
    low, high = sorted(rng.integers(0, 256, 2))
    flat = rng.integers(low, high + 1, (2, height, width, 3))
    peak = np.clip(rng.normal(low, 8, flat.shape), 0, 255)
    return torch.from_numpy((flat if rng.integers(2) else peak).astype(np.uint8))


def colored(draw: RandAugmentDraw) -> RandAugmentDraw:
    return tuple(one for one in draw if one.op not in GEOMETRIC)


@pytest.mark.parametrize("op", COLOR)
@pytest.mark.parametrize("size", [(37, 53), (16, 16), (2, 5), (5, 2), (1, 1)])
def test_every_op_equals_pillow_bit_for_bit(op: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(len(op) + size[0])
    sources = [random_frames(*size, rng) for _ in range(24)]
    draws = [(AppliedOp(op, op_value(op, rng.uniform(0, 10), bool(rng.integers(2)))),) for _ in sources]
    expected = as_clips([pillow_frames(frames, draw) for frames, draw in zip(sources, draws, strict=True)])
    assert torch.equal(apply_color(as_clips(sources), draws), expected)


@pytest.mark.parametrize("op", ["color", "contrast", "brightness", "sharpness"])
def test_every_factor_equals_pillow_on_every_value(op: str) -> None:
    """All 256 values beside each other, so that a product which rounds otherwise shows."""
    values = torch.arange(256, dtype=torch.uint8)
    frames = torch.stack([values.view(16, 16), values.flip(0).view(16, 16), values.roll(77).view(16, 16)], dim=-1)[None]
    draws = [(AppliedOp(op, factor),) for factor in np.linspace(0.1, 1.9, 301).tolist()]
    expected = as_clips([pillow_frames(frames, draw) for draw in draws])
    assert torch.equal(apply_color(as_clips([frames] * len(draws)), draws), expected)


def test_batches_of_drawn_ops_equal_clips_alone() -> None:
    rng = np.random.default_rng(0)
    policy = RandAugment(7, 5, 0.5)
    draws = [policy.draw(augmentation_rng(0, sample, RAND_AUGMENT)) for sample in range(40)]
    assert max(len(colored(draw)) for draw in draws) >= 4 and min(len(colored(draw)) for draw in draws) == 0
    sources = [random_frames(23, 17, rng) for _ in draws]
    expected = [pillow_frames(frames, colored(draw)) for frames, draw in zip(sources, draws, strict=True)]
    assert torch.equal(apply_color(as_clips(sources), draws), as_clips(expected))


def test_only_clips_with_a_colour_op_are_rounded() -> None:
    clips = torch.rand(3, 3, 2, 8, 9) * 255
    before = clips.clone()
    done = apply_color(clips, [(), (AppliedOp("invert", 0),), (AppliedOp("rotate", 21),)])
    assert done is clips and torch.equal(done[[0, 2]], before[[0, 2]])
    assert torch.equal(done[1], 255 - before[1].round())


def test_statistics_are_of_each_frame() -> None:
    frames = torch.stack([torch.arange(100, 164).view(8, 8), torch.arange(0, 64).view(8, 8)])
    frames = frames.to(torch.uint8)[..., None].expand(-1, -1, -1, 3).contiguous()
    done = apply_color(as_clips([frames]), [(AppliedOp("autocontrast", 0),)])
    torch.testing.assert_close(done[:, :, 0], done[:, :, 1], rtol=0, atol=1)  # Pillow cuts off 254.99…
    assert done.min() == 0 and done[:, :, :, -1, -1].min() >= 254


def test_no_value_is_read_back() -> None:
    """A meta tensor has no values: whatever would make the host wait for a GPU raises."""
    draws: list[RandAugmentDraw] = [(AppliedOp(op, op_value(op, 7, False)),) for op in COLOR]
    done = apply_color(torch.empty(len(COLOR), 3, 2, 8, 8, device="meta"), draws)
    assert done.device.type == "meta" and done.shape == (len(COLOR), 3, 2, 8, 8)


def test_bad_clips_are_errors() -> None:
    clips = torch.zeros(2, 3, 1, 4, 4)
    with pytest.raises(TypeError, match=r"clips must be float32, got torch.uint8"):
        apply_color(clips.to(torch.uint8), [(), ()])
    with pytest.raises(ValueError, match=r"clips must be \(B, 3, T, H, W\), got \(2, 1, 1, 4, 4\)"):
        apply_color(clips[:, :1], [(), ()])
    with pytest.raises(ValueError, match="one draw for each of 2 clips, got 1"):
        apply_color(clips, [()])
