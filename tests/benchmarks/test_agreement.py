"""What disagrees is not timed, and what agrees is let through."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.harness.run import DisagreementError
from benchmarks.inputs import Inputs
from benchmarks.model.agreement import Outcome, check_same_gradients
from benchmarks.model.steps import make_step
from benchmarks.settings import SIZES
from videomae_fast.models import VideoMAEForPretraining

CPU = torch.device("cpu")


def outcome(name: str, decoder_mask_ratio: float = 0.5, precision: str = "fp32") -> Outcome:
    return Outcome.of(make_step(name, Inputs(SIZES["tiny"], 2, CPU, decoder_mask_ratio=decoder_mask_ratio), precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "decoder_mask_ratio"),
    [
        ("published + SDPA", 0.5),
        ("published, checkpointed", 0.5),
        ("videomae_fast", 0.5),
        ("videomae_fast", 0.25),
        ("videomae_fast", 0.0),
        ("Hugging Face", 0.0),
    ],
)
def test_implementations_agree(name: str, decoder_mask_ratio: float, precision: str) -> None:
    expected = outcome("published", decoder_mask_ratio, precision)
    error = check_same_gradients(name, outcome(name, decoder_mask_ratio, precision), expected, precision)
    assert all(0 <= value < 1 for value in error.values())


def test_gradients_are_gone_afterwards() -> None:
    step = make_step("videomae_fast", Inputs(SIZES["tiny"], 2, CPU))
    Outcome.of(step)
    assert all(parameter.grad is None for parameter in step.model.parameters())


def spoilt(where: str, predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def spoil(self: VideoMAEForPretraining, *arguments: object) -> Tensor:
        predictions = predict(self, *arguments)
        if where == "loss":
            return predictions + 0.1 * torch.randn_like(predictions)
        if where == "gradient":
            return predictions.detach() + 1.01 * (predictions - predictions.detach())  # values as before
        return predictions * float("nan")

    return spoil


@pytest.mark.parametrize("where", ["loss", "gradient", "nan"])
def test_disagreement(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoMAEForPretraining, "_predict", spoilt(where, VideoMAEForPretraining._predict))
    with pytest.raises(
        DisagreementError, match="'videomae_fast' and the published code disagree, so nothing was timed"
    ):
        check_same_gradients("videomae_fast", outcome("videomae_fast"), outcome("published"), "fp32")


def test_one_wrong_parameter_is_enough() -> None:
    expected = outcome("published", precision="bf16")
    gradients = expected.gradients | {"mask_token": expected.gradients["mask_token"] * 0.7}
    with pytest.raises(DisagreementError, match="parameter"):
        check_same_gradients("wrong", Outcome(expected.loss, gradients), expected, "bf16")


def test_other_parameters() -> None:
    expected = outcome("published")
    fewer = {name: gradient for name, gradient in expected.gradients.items() if name != "mask_token"}
    with pytest.raises(DisagreementError, match="gradients for different parameters: \\['mask_token'\\]"):
        check_same_gradients("fewer", Outcome(expected.loss, fewer), expected, "fp32")
