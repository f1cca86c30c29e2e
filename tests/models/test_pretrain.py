"""The pre-training model as a whole: sizes it accepts, precision, errors."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.test_published_exactness import bool_masks, pair, rows_of
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks

TINY = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)
GRIDS = {
    "32 frames": replace(TINY, num_frames=32, image_size=(16, 16)),
    "wide": replace(TINY, image_size=(16, 64)),
    "tall": replace(TINY, image_size=(48, 16)),
    "one token frame": replace(TINY, num_frames=2),
    "tubelets of one frame": replace(TINY, num_frames=4, tubelet_size=1),
}
ODD = replace(TINY, num_frames=10, image_size=(24, 40))  # 5×3×5 tokens: the published running cell fails here


def clip_for(config: VideoMAEConfig, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, config.in_channels, config.num_frames, *config.image_size, dtype=dtype)


def random_model(config: VideoMAEConfig, seed: int = 0) -> VideoMAEForPretraining:
    torch.manual_seed(seed)
    return VideoMAEForPretraining(config)


@pytest.mark.parametrize("config", [*GRIDS.values(), ODD], ids=[*GRIDS, "odd"])
def test_any_clip_length_and_resolution(config: VideoMAEConfig) -> None:
    """Predictions of the published model, given the same masks."""
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.7)
    ours, published = pair(config)
    clip = clip_for(config, dtype=torch.float64)
    predictions = ours.predict(clip, plan)
    assert predictions.shape == (*plan.predicted.shape, config.patch_dim)
    torch.testing.assert_close(predictions, rows_of(published(clip, *bool_masks(plan)), plan), rtol=1e-11, atol=1e-11)
    assert ours.position.shape == (config.num_tokens, config.decoder_dim)


@pytest.mark.parametrize("config", [TINY, ODD], ids=["even", "odd"])
def test_loss_is_that_of_the_predictions(config: VideoMAEConfig) -> None:
    model, clip = random_model(config), clip_for(config)
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.7)
    loss = model(clip, plan)
    assert loss.shape == () and loss.dtype == torch.float32 and loss.requires_grad
    assert torch.equal(loss, model.loss(model.predict(clip, plan), clip, plan))
    alone = [model(clip[i : i + 1], make_masks(torch.tensor([i]), config.grid, mask_ratio=0.7)) for i in range(2)]
    rows = plan.loss_weight.sum(1) if plan.loss_weight is not None else torch.ones(2)
    torch.testing.assert_close((torch.stack(alone) * rows).sum() / rows.sum(), loss, rtol=1e-5, atol=0)


def test_hidden_pixels_reach_the_loss_only_and_undecoded_ones_nothing() -> None:
    model, clip = random_model(TINY), clip_for(TINY, 1)
    plan = make_masks(torch.arange(1), TINY.grid, mask_ratio=0.7)
    used = {*plan.visible[0].tolist(), *plan.predicted[0].tolist()}
    unused = [token for token in range(plan.num_tokens) if token not in used]
    assert unused
    spoiled = clip.clone()
    for token in unused:
        t, h, w = token // 16, token // 4 % 4, token % 4
        spoiled[..., 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8] = math.nan
    assert torch.equal(model(spoiled, plan), model(clip, plan))
    t, h, w = (int(n) for n in torch.unravel_index(plan.predicted[0, 0], TINY.grid))
    spoiled = clip.clone()
    spoiled[..., 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8] *= torch.rand(2, 8, 8)
    assert torch.equal(model.predict(spoiled, plan), model.predict(clip, plan))
    assert model(spoiled, plan) != model(clip, plan)


@pytest.mark.parametrize("layout", ["BTHWC", "BTCHW", "BCTHW", "TBHWC"])
def test_layout_is_the_order_of_dimensions(layout: str) -> None:
    model, clip = random_model(TINY), clip_for(TINY)
    plan = make_masks(torch.arange(2), TINY.grid, mask_ratio=0.7)
    turned = clip.permute(["BCTHW".index(d) for d in layout]).contiguous()
    torch.testing.assert_close(model(turned, plan, layout), model(clip, plan), rtol=1e-6, atol=1e-6)


def test_one_channel_and_other_statistics() -> None:
    config = replace(TINY, in_channels=1, pixel_mean=(0.3,), pixel_std=(0.2,))
    model, plan = random_model(config), make_masks(torch.arange(2), config.grid, mask_ratio=0.7)
    raw = torch.randint(0, 256, (2, 8, 32, 32, 1), dtype=torch.uint8)
    clip = (raw / 255 - 0.3) / 0.2
    torch.testing.assert_close(model(raw, plan, "BTHWC"), model(clip, plan, "BTHWC"), rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast() -> None:
    model, clip = random_model(TINY), clip_for(TINY)
    plan = make_masks(torch.arange(2), TINY.grid, mask_ratio=0.7)
    exact = model(clip, plan)
    exact.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = model.predict(clip, plan)
        loss = model.loss(predictions, clip, plan)
    loss.backward()
    assert predictions.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    assert loss != exact  # autocast was on
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        reference = gradients[name]
        assert reference is not None
        assert (parameter.grad - reference).norm() < 0.1 * reference.norm(), name


def test_drop_path_is_random_in_training_only() -> None:
    model, clip = random_model(replace(TINY, drop_path=0.5)), clip_for(TINY, 8)
    plan = make_masks(torch.arange(8), TINY.grid, mask_ratio=0.7)
    model.load_state_dict(random_model(TINY).state_dict())
    assert len({model(clip, plan).item() for _ in range(4)}) > 1
    assert torch.equal(model.eval()(clip, plan), random_model(TINY)(clip, plan))


@pytest.mark.parametrize(
    "clip, layout, samples, message",
    [
        ((2, 3, 10, 32, 32), "BCTHW", 2, r"clip must have T=8 .* got \(2, 3, 10, 32, 32\) as BCTHW"),
        ((2, 3, 8, 40, 32), "BCTHW", 2, "clip must have H=32"),
        ((2, 3, 8, 32, 40), "BCTHW", 2, "clip must have W=32"),
        ((2, 3, 8, 32, 32), "BTHWC", 2, "clip must have T=8 .* as BTHWC"),
        ((3, 8, 32, 32), "BCTHW", 2, "clip must have 5 dimensions"),
        ((3, 3, 8, 32, 32), "BCTHW", 2, "clip has a batch of 3, plan of 2"),
        ((2, 1, 8, 32, 32), "BCTHW", 2, "clip has 1 channels, weight expects 3"),
        ((2, 3, 8, 32, 32), "BCTHWW", 2, "layout must be a permutation of 'BCTHW'"),
        ((2, 3, 8, 32, 32), "NCTHW", 2, "layout must be a permutation of 'BCTHW'"),
    ],
)
def test_clip_errors(clip: tuple[int, ...], layout: str, samples: int, message: str) -> None:
    plan = make_masks(torch.arange(samples), TINY.grid, mask_ratio=0.7)
    with pytest.raises(ValueError, match=message):
        random_model(TINY)(torch.zeros(clip), plan, layout)


def test_clip_of_integers() -> None:
    with pytest.raises(TypeError, match=r"clip must be uint8 or floating .*got a torch\.int64"):
        random_model(TINY)(clip_for(TINY).long(), make_masks(torch.arange(2), TINY.grid))


def test_plan_of_another_grid() -> None:
    with pytest.raises(ValueError, match=r"plan is for grid \(4, 4, 2\), the model was built for \(4, 4, 4\)"):
        random_model(TINY)(clip_for(TINY), make_masks(torch.arange(2), (4, 4, 2)))


@pytest.mark.parametrize("masks", [dict(mask="random"), dict(decoder_mask="random")], ids=str)
def test_disjoint_needs_a_fixed_overlap(masks: dict[str, Any]) -> None:
    model = random_model(replace(TINY, decoder_context="disjoint"))
    with pytest.raises(ValueError, match="decoder_context='disjoint' needs the same number of overlap rows"):
        model(clip_for(TINY), make_masks(torch.arange(2), TINY.grid, mask_ratio=0.7, **masks))
    plan = make_masks(torch.arange(2), TINY.grid, mask_ratio=0.7, decoder_mask="none")
    assert torch.equal(model(clip_for(TINY), plan), random_model(TINY)(clip_for(TINY), plan))
