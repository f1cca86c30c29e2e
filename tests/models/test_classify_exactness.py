"""Our classifier against the plain published implementation in float64: logits and every gradient."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.published import PublishedClassifier, sinusoid_table
from tests.models.test_classify import build
from videomae_fast import VideoMAEConfig
from videomae_fast.models import VideoMAEForClassification, stochastic_depth
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD
from videomae_kernels import crop_clips

CONFIG = VideoMAEConfig(48, 3, 3, 24, 2, num_frames=8, image_size=(32, 48), patch_size=8, drop_path=0.6, mlp_ratio=3.21)
FLOAT32 = 1e-5  # pixels of uint8 are scaled, and crops resized, in float32
SAMPLE = torch.tensor([3, 2**33 + 1, 5, 8, 13, 21])


def pair(config: VideoMAEConfig) -> tuple[VideoMAEForClassification, PublishedClassifier]:
    """Our model and the published one with the same float64 weights and tables."""
    ours = build(config, 7, positions="sinusoid")
    theirs = PublishedClassifier.from_config(config, 7).double()
    theirs.load_state_dict(ours.state_dict())
    ours.position.copy_(sinusoid_table(config.num_tokens, config.encoder_dim, torch.float64)[0])
    return ours, theirs


def normalised(raw: Tensor) -> Tensor:
    """uint8 (B, T, H, W, C) as the published model takes it."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    clip = (raw.double() / 255 - mean) / std
    return clip.permute(0, 4, 1, 2, 3)


def kept(model: VideoMAEForClassification, step: int) -> Tensor:
    """(L, 2, B) bool: the samples that keep each branch."""
    rows, ones = [], torch.ones(len(SAMPLE), 1, 1)
    with stochastic_depth(seed=1, step=step, sample=SAMPLE):
        for block in model.blocks:
            for branch in (0, 1):
                draw = None if block.drop_path is None else block.drop_path(ones, branch)
                rows.append(ones if draw is None else draw.add(0 * ones, draw.select(ones)))
    return torch.stack(rows).view(-1, 2, len(SAMPLE)) > 0


def assert_same(ours: list[Tensor], theirs: list[Tensor], model: torch.nn.Module, error: float = 1e-11) -> None:
    """Error of each tensor by its norm."""
    for name, mine, wanted in zip(["logits", *dict(model.named_parameters())], ours, theirs, strict=True):
        assert wanted.abs().max() > 0, f"{name} has nothing to compare"
        assert (mine - wanted).norm() <= error * wanted.norm(), name


def with_gradients(logits: Tensor, model: torch.nn.Module) -> list[Tensor]:
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
    return [logits.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
@pytest.mark.parametrize("raw", [False, True])
def test_evaluation(raw: bool, layout: str) -> None:
    ours, theirs = pair(CONFIG)
    torch.manual_seed(2)
    frames = torch.randint(0, 256, (6, 8, 32, 48, 3), dtype=torch.uint8)
    clip = frames.permute(0, 4, 1, 2, 3) if raw else normalised(frames)
    clip = clip.permute(["BCTHW".index(d) for d in layout]).contiguous()
    logits, expected = ours.eval()(clip, layout=layout), theirs.eval()(normalised(frames))
    error = FLOAT32 if raw else 1e-11
    assert_same(with_gradients(logits, ours), with_gradients(expected, theirs), ours, error)
    features = theirs.forward_features(normalised(frames))
    assert (ours.features(clip, layout=layout) - features).norm() <= error * features.norm()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("recompute", ["always", "never"])
def test_training_with_drop_path(recompute: str, checkpointing: bool) -> None:
    """Skipped and multiplied branches give the published result for the same draws, also where a branch keeps none."""
    ours, theirs = pair(replace(CONFIG, recompute=recompute, activation_checkpointing=checkpointing))
    torch.manual_seed(2)
    frames = torch.randint(0, 256, (6, 8, 32, 48, 3), dtype=torch.uint8)
    clip = normalised(frames)
    seen: set[int] = set()
    for step in range(3):
        keep = kept(ours, step)
        seen |= {*keep[1:].sum(-1).flatten().tolist()}
        expected = with_gradients(theirs.train()(clip, keep), theirs)
        for skip in (True, False):
            with stochastic_depth(seed=1, step=step, sample=SAMPLE, skip=skip):
                logits = ours.train()(clip)
            assert_same(with_gradients(logits, ours), expected, ours)
    assert min(seen) < 2 and max(seen) > 3


@pytest.mark.parametrize("change", [dict(mlp_ratio=4.0), dict(elementwise="torch"), dict(encoder_depth=1)], ids=str)
def test_other_models(change: dict[str, object]) -> None:
    ours, theirs = pair(replace(CONFIG, **change))
    torch.manual_seed(2)
    clip = torch.randn(2, 3, 8, 32, 48, dtype=torch.float64)
    assert_same(with_gradients(ours.eval()(clip), ours), with_gradients(theirs.eval()(clip), theirs), ours)


def test_crop_boxes() -> None:
    """From crop boxes of decoded frames, to the rounding of the float32 filter weights."""
    torch.manual_seed(0)
    sources = [torch.randint(0, 256, (8, *size, 3), dtype=torch.uint8) for size in ((40, 60), (70, 50))]
    boxes, number, flips = [(4, 6, 32, 48), (0, 10, 40, 48), (3, 2, 60, 45)], [0, 0, 1], [False, True, False]
    clips = crop_clips(sources, number, boxes, flips, CONFIG.image_size)
    shown = []
    for source, (top, left, height, width), flipped in zip(number, boxes, flips, strict=True):
        crop = sources[source][:, top : top + height, left : left + width].permute(0, 3, 1, 2).double()
        frames = torch.nn.functional.interpolate(crop, CONFIG.image_size, mode="bilinear", antialias=True)
        shown.append((frames.flip(3) if flipped else frames).permute(0, 2, 3, 1))
    ours, theirs = pair(CONFIG)
    mine = with_gradients(ours.eval()(clips), ours)
    expected = with_gradients(theirs.eval()(normalised(torch.stack(shown))), theirs)
    assert_same(mine, expected, ours, FLOAT32)
