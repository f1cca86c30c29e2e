"""The published code's model, fused, and the loss for its training loop; `--published-repo`: a real checkout's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.published.loss import published_loss
from tests.interop.models import PATCH, as_bool, assert_close, clip, disturb, gradients, plan, small
from videomae_fast import MaskPlan
from videomae_fast.interop import fuse, pretrain_loss, unfuse

PLANS = {
    "running cell": plan(),
    "no decoder mask": plan(decoder_mask="none"),
    "ragged": plan(decoder_mask="random", decoder_mask_ratio=0.5),
}


@pytest.fixture(params=[False, True], ids=["", "checkpointed"])
def model(request: pytest.FixtureRequest, published_class: Any) -> nn.Module:
    return disturb(small(published_class, with_cp=request.param)).double()


def masks(given: MaskPlan) -> tuple[Tensor, Tensor]:
    return as_bool(given.visible), as_bool(given.decoded)


def pixels() -> Tensor:
    return clip().double().transpose(1, 2).contiguous()


def step(model: nn.Module, *given: Any, loss: Any = pretrain_loss) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Predictions, loss and gradients."""
    images = pixels().requires_grad_()
    outputs = model(images, *given)
    value = loss(images, outputs, *given, patch=PATCH)
    value.backward()
    return outputs, value, {**gradients(model), "images": images.grad}


def inline_loss(images: Tensor, outputs: Tensor, hidden: Tensor, not_decoded: Tensor, patch: Any) -> Tensor:
    """What `train_one_epoch` has in the place of `pretrain_loss`."""
    return published_loss(outputs, images, hidden, not_decoded, patch)


@pytest.mark.parametrize("ops", [None, ["embed_tokens"], ["decode"]], ids=str)
@pytest.mark.parametrize("kind", PLANS)
def test_outputs_loss_and_gradients(model: nn.Module, kind: str, ops: list[str] | None) -> None:
    given = masks(PLANS[kind])
    expected = step(model, *given, loss=inline_loss)
    assert_close(step(fuse(model, ops=ops, verify=True), *given), expected, 1e-7)
    assert_close(step(unfuse(model), *given, loss=inline_loss), expected, 0)


@pytest.mark.parametrize("kind", PLANS)
def test_plan_in_place_of_masks(model: nn.Module, kind: str) -> None:
    """Without a host sync for counts, and without predictions that the loss does not want."""
    given = PLANS[kind]
    outputs, loss, grads = step(model, *masks(given), loss=inline_loss)
    ours, our_loss, our_grads = step(fuse(model), given)
    assert_close(our_loss, loss, 1e-7)
    assert_close(our_grads, grads, 1e-7)
    wanted = torch.zeros(2, 64, 384, dtype=torch.float64)
    wanted[~as_bool(given.decoded)] = outputs.detach().flatten(0, 1)
    index = given.predicted[..., None].expand(-1, -1, 384)
    assert_close(ours, wanted.gather(1, index), 1e-10)


def test_no_decoder_mask_given(model: nn.Module) -> None:
    """As VideoMAE V1 calls its model."""
    hidden, _ = masks(plan(decoder_mask="none"))
    expected = model(pixels(), hidden, ~hidden)
    outputs = fuse(model)(pixels(), hidden)
    assert_close(outputs, expected, 1e-10)
    loss = pretrain_loss(pixels(), outputs, hidden, patch=PATCH, normalize=False)
    wanted = published_loss(expected, pixels(), hidden, ~hidden, PATCH, normalize_target=False)
    assert_close(loss, wanted, 1e-7)


@pytest.mark.parametrize("name", ["with_cp", "use_checkpoint"])
def test_checkpointing_stays(published_class: Any, name: str) -> None:
    """V2's name for it, and V1's: blocks run a second time in backward."""
    model = small(published_class)
    del model.encoder.with_cp
    setattr(model.encoder, name, True)
    calls: list[int] = []
    fuse(model).encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(0))
    step(model.double(), plan())
    assert len(calls) == 2


def test_state_dict_stays(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_close(dict(fuse(model).state_dict()), before, 0)
    assert not [name for name in before if "pos_embed" in name]
    model.load_state_dict(before, strict=True)


def test_wrong_input_is_named(model: nn.Module) -> None:
    hidden, not_decoded = masks(plan())
    fuse(model)
    with pytest.raises(ValueError, match=r"the clip must be \(B, C, T, 32, 32\), got \(2, 3, 8, 64, 16\)"):
        model(pixels().reshape(2, 3, 8, 64, 16), hidden, not_decoded)
    with pytest.raises(TypeError, match=r"the mask must be a boolean tensor .* got torch.float64"):
        model(pixels(), hidden.double(), not_decoded)
    with pytest.raises(ValueError, match=r"the decoder mask must have shape \(B, 64\), got \(2, 4, 16\)"):
        model(pixels(), hidden, not_decoded.view(2, 4, 16))
    for call in (lambda: model(pixels(), plan(), hidden), lambda: pretrain_loss(pixels(), hidden, plan(), hidden)):
        with pytest.raises(ValueError, match="part of the MaskPlan"):
            call()


def test_learnable_positions_are_parameters_still(model: nn.Module) -> None:
    model.encoder.pos_embed = nn.Parameter(model.encoder.pos_embed.double())
    step(fuse(model), plan())
    model(pixels(), plan()).sum().backward()
    assert model.encoder.pos_embed.grad.abs().sum() > 0 and isinstance(model.encoder.pos_embed, nn.Parameter)
