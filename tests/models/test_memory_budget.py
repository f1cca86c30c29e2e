"""The closed form of a step's memory against the prediction that counts every tensor, and the choice that uses it."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.memory.predictable import make_predictable
from videomae_fast import CONFIGS, MaskPlan, VideoMAEConfig, get_config, make_masks
from videomae_fast.memory.predict import predict_step
from videomae_fast.models import choose_recompute
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.memory_budget import peak_bytes

SHALLOW = get_config("small", encoder_depth=3, decoder_depth=2)
GIANT_WIDTHS = get_config("giant", encoder_depth=2, decoder_depth=2)  # padded hidden units in the decoder
GIB = 2**30


def plan_of(config: VideoMAEConfig, **masks: Any) -> MaskPlan:
    return make_masks(torch.zeros(1, dtype=torch.int64), config.grid, **masks)


def predicted(config: VideoMAEConfig, clips: int, precision: str, **ratios: float) -> int:
    config = replace(config, recompute="never")
    return predict_step(
        make_predictable("videomae_fast", config, clips, precision=precision, **ratios)
    ).figures.peak_bytes


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "config, clips",
    [(SHALLOW, 16), (GIANT_WIDTHS, 32), (replace(SHALLOW, elementwise="torch"), 16)],
    ids=["small", "giant", "torch"],
)
def test_formula(config: VideoMAEConfig, clips: int, precision: str) -> None:
    expected = predicted(config, clips, precision)
    assert peak_bytes(config, plan_of(config), clips, precision) == pytest.approx(expected, rel=0.01)


def test_formula_for_other_masks() -> None:
    ratios = dict(mask_ratio=0.75, decoder_mask_ratio=0.25)
    expected = predicted(SHALLOW, 16, "bf16", **ratios)
    assert peak_bytes(SHALLOW, plan_of(SHALLOW, **ratios), 16, "bf16") == pytest.approx(expected, rel=0.01)
    disjoint = replace(SHALLOW, decoder_context="disjoint")
    expected = predicted(disjoint, 16, "bf16")
    assert peak_bytes(disjoint, plan_of(disjoint), 16, "bf16") == pytest.approx(expected, rel=0.01)


def test_where_weights_are_most_of_it_the_formula_is_a_bound() -> None:
    config = get_config("large", encoder_depth=6)
    expected = predicted(config, 1, "bf16")
    assert expected <= peak_bytes(config, plan_of(config), 1, "bf16") <= 1.3 * expected


def test_the_choice_follows_the_capacity() -> None:
    """The allowance for unpredicted memory is 2 GiB and 5 %."""
    config = get_config("base")
    peak = peak_bytes(config, plan_of(config), 128, "bf16")
    needed = int(peak / 0.95) + 2 * GIB

    def choice(capacity: int | None, config: VideoMAEConfig = config) -> str:
        return choose_recompute(config, plan_of(config), clips=128, precision="bf16", capacity_bytes=capacity)

    assert choice(needed - 2**20) == "always" and choice(needed + 2**20) == "never"
    assert choice(None) == "always"
    assert choice(2**50, replace(config, activation_checkpointing=True)) == "always"
    assert replace(config, recompute=choice(2**50)).recompute == "never"


@pytest.mark.parametrize("size", CONFIGS)
def test_it_is_quick(size: str) -> None:
    start = time.process_time()
    config = get_config(size)
    choose_recompute(config, plan_of(config), clips=128, precision="bf16", capacity_bytes=80 * GIB)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(precision="fp8"), r"precision must be one of \('bf16', 'fp32'\), got 'fp8'"),
        (dict(clips=0), "clips must be at least 1, got 0"),
    ],
    ids=str,
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"clips": 2, "precision": "bf16", "capacity_bytes": GIB, **change}
    with pytest.raises(ValueError, match=message):
        choose_recompute(SHALLOW, plan_of(SHALLOW), **arguments)


def test_what_is_held_besides_the_step_counts() -> None:
    """Gradients of earlier parts, an average of the weights, and fine-tuning's clips of all parts."""
    config = get_config("base")
    weights = 4 * sum(p.numel() for p in meta_blocks(config))
    for tokens, waiting in ((plan_of(config), 0), (1568, 3 * 8 * 4 * 3 * 16 * 224 * 224)):
        plain = peak_bytes(config, tokens, 8, "bf16")
        parts = peak_bytes(config, tokens, 8, "bf16", accumulate=4)
        assert parts - plain - waiting >= weights
        assert peak_bytes(config, tokens, 8, "bf16", accumulate=4, copies=1) - parts >= weights


def meta_blocks(config: VideoMAEConfig) -> list[torch.Tensor]:
    """The matrices of the encoder's blocks, without memory."""
    with torch.device("meta"):
        encoder = Encoder(config)
    return [p for name, p in encoder.named_parameters() if p.ndim > 1 and name.startswith("blocks.")]
