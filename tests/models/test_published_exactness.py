"""Our model against the plain published implementation in float64: predictions, loss and every gradient."""

import pytest
import torch

from benchmarks.baselines.published import PublishedVideoMAE, published_loss, sinusoid_table
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks, masks_from_bool
from videomae_fast.masks import MaskPlan

TINY = dict(encoder_dim=48, encoder_depth=3, encoder_heads=3, decoder_dim=24, decoder_heads=2, decoder_depth=2)


def bool_masks(plan: MaskPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """The published boolean masks (True = hidden, True = not decoded) of a plan."""
    hidden = torch.ones(plan.visible.shape[0], plan.num_tokens, dtype=torch.bool)
    return hidden.scatter(1, plan.visible, False), hidden.clone().fill_(True).scatter(1, plan.decoded, False)


def pair(config: VideoMAEConfig) -> tuple[VideoMAEForPretraining, PublishedVideoMAE]:
    """Our model and the published one with the same float64 weights."""
    torch.manual_seed(0)
    ours = VideoMAEForPretraining(config)
    for parameter in ours.parameters():  # biases and norms at their initial 0 and 1 would hide mistakes
        parameter.data += 0.05 * torch.randn_like(parameter)
    published = PublishedVideoMAE.from_config(config)
    published.load_state_dict(ours.state_dict())
    ours.double(), published.double()
    # Both hold float32 tables; in float64 the published code takes the unrounded one, so ours gets it too.
    ours.encoder.position.copy_(sinusoid_table(config.num_tokens, config.encoder_dim, torch.float64)[0])
    ours.position.copy_(sinusoid_table(config.num_tokens, config.decoder_dim, torch.float64)[0])
    return ours, published


def rows_of(published: torch.Tensor, plan: MaskPlan) -> torch.Tensor:
    """Published predictions (B, M, P), which come in ascending token order, at `plan.predicted`."""
    rank = torch.searchsorted(plan.decoded.sort(dim=1).values, plan.predicted.contiguous())
    return published.gather(1, rank[..., None].expand(-1, -1, published.shape[-1]))


def assert_exact(config: VideoMAEConfig, plan: MaskPlan) -> None:
    """Predictions, loss and all gradients agree to float64 rounding."""
    ours, published = pair(config)
    clip = torch.randn(plan.visible.shape[0], 3, config.num_frames, *config.image_size, dtype=torch.float64)
    hidden, not_decoded = bool_masks(plan)
    predictions, loss = ours.predict(clip, plan), ours(clip, plan)
    expected = published(clip, hidden, not_decoded)
    expected_loss = published_loss(expected, clip, hidden, not_decoded, config.patch)
    torch.testing.assert_close(predictions, rows_of(expected, plan), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    loss.backward(), expected_loss.backward()
    theirs = dict(published.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = theirs[name].grad
        assert parameter.grad is not None and grad is not None, name
        assert grad.abs().max() > 0, f"{name} has no gradient to compare"
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-14, msg=name)


GRIDS = {
    "8 frames, square": VideoMAEConfig(num_frames=8, image_size=(32, 32), patch_size=8, **TINY),
    "T' % 4 = 2": VideoMAEConfig(num_frames=12, image_size=(32, 32), patch_size=8, **TINY),
    "not square, hidden size padded": VideoMAEConfig(
        num_frames=8, image_size=(24, 48), patch_size=6, mlp_ratio=3.21, **TINY
    ),
    "odd W', T' % 4 = 1": VideoMAEConfig(num_frames=10, image_size=(32, 40), patch_size=8, **TINY),
}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("config", GRIDS.values(), ids=GRIDS)
def test_running_cell(config: VideoMAEConfig, ratio: float) -> None:
    plan = make_masks(torch.arange(5, 8), config.grid, mask_ratio=0.7, decoder_mask_ratio=ratio, seed=1)
    assert isinstance(plan.num_overlap, int) == (config.grid[0] % 4 == 0)
    assert_exact(config, plan)


@pytest.mark.parametrize(
    "masks",
    [
        dict(decoder_mask="none"),
        dict(mask="random"),
        dict(mask="random", decoder_mask="random"),
        dict(decoder_mask="random"),
        dict(mask="random", decoder_mask="none"),
    ],
    ids=str,
)
def test_other_masks(masks: dict[str, str]) -> None:
    config = GRIDS["8 frames, square"]
    assert_exact(config, make_masks(torch.arange(2), config.grid, mask_ratio=0.6, seed=2, **masks))


def test_masks_made_elsewhere() -> None:
    config = GRIDS["8 frames, square"]
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.6, decoder_mask="random", seed=3)
    hidden, not_decoded = bool_masks(plan)
    again = masks_from_bool(
        config.grid, hidden, not_decoded, num_visible=plan.visible.shape[1], num_decoded=plan.decoded.shape[1]
    )
    for name in ("visible", "decoded", "num_overlap"):
        assert torch.equal(getattr(again, name), getattr(plan, name)), name


def test_uint8_equals_normalised_float() -> None:
    config = GRIDS["8 frames, square"]
    ours, _ = pair(config)
    ours.float()
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.7, seed=1)
    raw = torch.randint(0, 256, (2, config.num_frames, *config.image_size, 3), dtype=torch.uint8)
    mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
    clip = ((raw / 255 - mean) / std).permute(0, 4, 1, 2, 3).contiguous()
    predictions = ours.predict(raw, plan, "BTHWC")
    torch.testing.assert_close(predictions, ours.predict(clip, plan), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(raw, plan, "BTHWC"), ours(clip, plan), rtol=1e-4, atol=1e-5)


def test_disjoint_leaves_the_overlap_out() -> None:
    """Equal to the published model with a decoder mask that also excludes the visible tokens."""
    config = GRIDS["8 frames, square"]
    plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.7, seed=1)
    ours, published = pair(config)
    disjoint = VideoMAEForPretraining(VideoMAEConfig(**{**vars(config), "decoder_context": "disjoint"})).double()
    disjoint.load_state_dict(ours.state_dict())
    disjoint.encoder.position.copy_(ours.encoder.position)
    disjoint.position.copy_(ours.position)
    clip = torch.randn(2, 3, config.num_frames, *config.image_size, dtype=torch.float64)
    hidden, not_decoded = bool_masks(plan)
    expected = published(clip, hidden, not_decoded | ~hidden)
    torch.testing.assert_close(disjoint.predict(clip, plan), expected, rtol=1e-12, atol=1e-12)
    assert (disjoint.predict(clip, plan) - ours.predict(clip, plan)).abs().max() > 1e-6
