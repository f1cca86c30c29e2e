"""Mask arguments that make no sense are errors that say what came and what is allowed."""

import re
from typing import Any

import pytest
import torch

from videomae_fast import MaskPlan, make_masks, masks_from_bool

GRID = (4, 4, 4)
SAMPLE = torch.arange(3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(mask="tubes"), "mask must be one of ('tube', 'random', 'none'), got 'tubes'"),
        (dict(decoder_mask="cell"), "decoder_mask must be one of ('running_cell', 'random', 'none'), got 'cell'"),
        (dict(mask="none", decoder_mask="none"), "sees every token"),
        (dict(mask="random", mask_ratio=0.0, decoder_mask="none"), "sees every token"),
        (dict(mask_ratio=1.0), "ratio must be in [0, 1), got 1.0"),
        (dict(mask="random", mask_ratio=-0.1), "ratio must be in [0, 1), got -0.1"),
        (dict(mask_ratio=float("nan")), "ratio must be in [0, 1), got nan"),
        (dict(decoder_mask="random", decoder_mask_ratio=1.0), "ratio must be in [0, 1), got 1.0"),
        (dict(decoder_mask_ratio=0.2), "ratio must be in [0.25, 1)"),
        (dict(decoder_mask_ratio=1.0), "ratio must be in [0.25, 1)"),
        (dict(seed=-1), "seed must be an integer in [0, 2**63), got -1"),
    ],
    ids=str,
)
def test_make_masks(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_masks(SAMPLE, GRID, **arguments)


def test_sample_numbers() -> None:
    with pytest.raises(TypeError, match=r"sample must be int64, got a torch\.int32 tensor"):
        make_masks(SAMPLE.int(), GRID)
    with pytest.raises(ValueError, match=r"sample must have shape \(B,\), got \(3, 1\)"):
        make_masks(SAMPLE[:, None], GRID)


def test_grid() -> None:
    with pytest.raises(ValueError, match=r"grid must be three positive token counts .*\(4, 0, 4\)"):
        make_masks(SAMPLE, (4, 0, 4))


@pytest.mark.parametrize(
    "grid, masks",
    [
        (GRID, dict(mask="none")),
        (GRID, dict(mask_ratio=0.0)),
        (GRID, dict(mask="none", decoder_mask="random")),
        ((6, 4, 4), dict(mask="none")),
    ],
    ids=str,
)
def test_an_encoder_that_sees_everything_leaves_predictions_but_no_loss(
    grid: tuple[int, int, int], masks: dict[str, Any]
) -> None:
    plan = make_masks(SAMPLE, grid, **masks)
    assert torch.equal(plan.predicted, plan.decoded)
    with pytest.raises(ValueError, match=f"no row is left for the loss: the encoder sees all {plan.decoded.shape[1]}"):
        _ = plan.loss_weight


def test_plan_made_by_hand() -> None:
    visible, decode = torch.arange(4)[None], torch.arange(2)[None]
    assert MaskPlan(GRID, visible, decode, 1).predicted.tolist() == [[1]]
    assert MaskPlan(GRID, visible, decode, 2).predicted.tolist() == [[0, 1]]


def hidden() -> torch.Tensor:
    """(3, 64): 10 visible tokens in every sample."""
    mask = torch.ones(3, 64, dtype=torch.bool)
    mask[:, 5:15] = False
    return mask


def not_decoded() -> torch.Tensor:
    """(3, 64): 20 decoded tokens in every sample, 4 of them visible."""
    mask = torch.ones(3, 64, dtype=torch.bool)
    mask[:, 11:31] = False
    return mask


def test_masks_from_bool() -> None:
    plan = masks_from_bool(GRID, hidden(), not_decoded(), num_visible=10, num_decoded=20)
    assert plan.visible.tolist() == [list(range(5, 15))] * 3
    assert plan.decoded.tolist() == [list(range(11, 31))] * 3
    assert isinstance(plan.num_overlap, torch.Tensor) and plan.num_overlap.tolist() == [4, 4, 4]
    assert plan.loss_weight is not None and plan.loss_weight.sum(1).tolist() == [16.0] * 3


@pytest.mark.parametrize("which", ["hidden", "not_decoded"])
def test_masks_from_bool_errors(which: str) -> None:
    def make(change: Any, **counts: int) -> None:
        masks = {"hidden": hidden(), "not_decoded": not_decoded()}
        masks[which] = change(masks[which])
        masks_from_bool(GRID, **masks, **{"num_visible": 10, "num_decoded": 20, **counts})

    def one_less(mask: torch.Tensor) -> torch.Tensor:
        mask[1, 12] = True
        return mask

    count, counted = ("num_visible", 10) if which == "hidden" else ("num_decoded", 20)
    expected = f"must keep {counted} tokens in every sample, got counts [{counted}, {counted - 1}, {counted}]"
    with pytest.raises(ValueError, match=re.escape(expected)):
        make(one_less)
    with pytest.raises(ValueError, match=f"must keep {counted + 1} tokens"):
        make(lambda mask: mask, **{count: counted + 1})
    with pytest.raises(ValueError, match=rf"^{count} must be in \[1, 64\], got 0"):
        make(lambda mask: mask | True, **{count: 0})
    for wrong in (lambda mask: mask[:, :63], lambda mask: mask[0], lambda mask: mask.view(3, 4, 16)):
        with pytest.raises(ValueError, match=rf"^{which} must have shape \(.*64\) for grid \(4, 4, 4\), got"):
            make(wrong)
    with pytest.raises(TypeError, match="boolean"):
        make(lambda mask: mask.long())


@pytest.mark.parametrize("batches", [(3, 2), (2, 3)])
def test_masks_from_bool_of_unequal_batches(batches: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not_decoded"):
        masks_from_bool(GRID, hidden()[: batches[0]], not_decoded()[: batches[1]], num_visible=10, num_decoded=20)


def test_masks_from_bool_where_no_mask_is_boolean() -> None:
    """The published masks are float64."""
    with pytest.raises(TypeError, match=r"hidden must be .*bool"):
        masks_from_bool(GRID, hidden().double(), not_decoded(), num_visible=10, num_decoded=20)


@pytest.mark.parametrize(
    "parts, message",
    [
        (0, "parts must be between 1 and the batch size 3, got 0"),
        (4, "parts must be between 1 and the batch size 3, got 4"),
        ([1, 1], "parts must be positive sizes that add up to the batch size 3, got [1, 1]"),
        ([3, 0], "parts must be positive sizes that add up to the batch size 3, got [3, 0]"),
        ([], "parts must be positive sizes that add up to the batch size 3, got []"),
    ],
    ids=str,
)
def test_split(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_masks(SAMPLE, GRID).split(parts)
