"""Losses and gradients of the parts of a batch add up to the batch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.harness.counts import count
from tests.models.test_layers import randomise
from videomae_fast import MaskPlan, VideoMAEConfig, VideoMAEForPretraining, make_masks

TINY = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)
MASKS: dict[str, dict[str, Any]] = {
    "equal": {},
    "all hidden": dict(decoder_mask="none"),
    "ragged": dict(mask="random"),
    "ragged twice": dict(mask="random", decoder_mask="random"),
}


def summed(model: VideoMAEForPretraining, clip: Tensor, plans: list[MaskPlan]) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients of clips that lie one after the other in `clip`, added up."""
    model.zero_grad()
    losses = []
    for part, plan in zip(clip.split([len(plan.visible) for plan in plans]), plans, strict=True):
        losses.append(model(part, plan))
        losses[-1].backward()
    return torch.stack(losses).detach().sum(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 5, [1, 4]], ids=str)
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_parts_add_up_to_the_whole_batch(masks: dict[str, Any], parts: int | list[int]) -> None:
    model = randomise(VideoMAEForPretraining(TINY))
    clip = torch.randn(5, 3, 8, 32, 32, dtype=torch.float64)
    plan = make_masks(torch.arange(5), TINY.grid, mask_ratio=0.7, **masks)
    if isinstance(plan.num_overlap, Tensor):
        assert len(set(plan.num_overlap.tolist())) > 1
    loss, gradients = summed(model, clip, [plan])
    ours, ours_gradients = summed(model, clip, plan.split(parts))
    torch.testing.assert_close(ours, loss, rtol=1e-13, atol=0)
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours_gradients[name], gradient, rtol=1e-10, atol=1e-14, msg=name)


def test_a_part_may_have_no_row_of_the_loss() -> None:
    """The encoder sees all that is decoded of one sample: alone it has no loss, as a part it adds nothing."""
    visible, decoded = torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[1, 2], [2, 9]])
    plan = MaskPlan(TINY.grid, visible, decoded, torch.tensor([2, 1]))
    model = randomise(VideoMAEForPretraining(TINY))
    clip = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64)
    loss, gradients = summed(model, clip, [plan])
    ours, ours_gradients = summed(model, clip, plan.split(2))
    torch.testing.assert_close(ours, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(ours_gradients, gradients, rtol=1e-10, atol=1e-14)


def test_splitting_does_not_synchronise() -> None:
    plan = make_masks(torch.arange(4), TINY.grid, mask="random")
    assert count(lambda: [part.loss_weight for part in plan.split(2)], torch.device("cpu")).syncs == 0


def test_a_part_keeps_the_dtype_of_the_loss() -> None:
    model = VideoMAEForPretraining(TINY)
    for part in make_masks(torch.arange(2), TINY.grid, mask="random").split(2):
        assert model(torch.zeros(1, 3, 8, 32, 32), part).dtype == torch.float32
