"""The largest batch: searched for any curve, and read off the lines of a step that is affine."""

from collections.abc import Callable

import pytest

from tests.memory.steps import PerceptronStep
from videomae_fast.memory import MemoryFigures, StepPredictor
from videomae_fast.memory.batches import ALLOWANCE_GIB, CAPACITY_GIB, CARDS, largest_batch, largest_batches
from videomae_fast.memory.figures import Moment
from videomae_fast.memory.profile import BLOCK


def test_cards() -> None:
    assert set(CARDS) == {"A100-40", "A100-80", "H100-80", "H200"}
    for name, usable in CARDS.items():
        assert usable == int((CAPACITY_GIB[name] - ALLOWANCE_GIB) * 2**30)


class Counted:
    def __init__(self, function: Callable[[int], int]) -> None:
        self.function, self.asked = function, list[int]()

    def __call__(self, batch: int) -> int:
        assert batch > 0
        self.asked.append(batch)
        return self.function(batch)


CURVES = {
    "affine": lambda b: 1000 + 7 * b,
    "flat, then affine": lambda b: max(2000, 500 + 7 * b),
    "two slopes": lambda b: max(1000 + 3 * b, 500 + 7 * b),
    "blocks": lambda b: 1000 + 7 * b // 64 * 64,
}


@pytest.mark.parametrize("usable", [500, 1000, 1007, 1500, 1999, 2000, 2001, 10_000, 70_001])
@pytest.mark.parametrize("curve", CURVES)
def test_largest_batch(curve: str, usable: int) -> None:
    peak = Counted(CURVES[curve])
    found = largest_batch(peak, usable)
    assert found == max((b for b in range(1, 12_000) if CURVES[curve](b) <= usable), default=0)
    assert len(peak.asked) == len(set(peak.asked)) <= 25
    assert found + 1 in peak.asked and (found in peak.asked or found == 0)
    if curve == "affine":
        assert len(peak.asked) <= 5


def figures(timeline: list[int]) -> MemoryFigures:
    return MemoryFigures(timeline, max(timeline), Moment("forward", "", ""), {}, {}, None)


MOMENTS = {  # live bytes at every moment, by batch size: the peak is at another moment in small batches than in large
    "affine": lambda b: [10_000, 10_000 + 700 * b, 90_000 + 300 * b],
    "flat": lambda b: [500_000, 10_000 + 700 * b, 20_000],
    "blocks": lambda b: [10_000, -(-(10_000 + 700 * b) // BLOCK) * BLOCK],
}


@pytest.mark.parametrize("usable", [5_000, 10_000, 10_700, 99_999, 500_000, 1_000_000, 7_777_777])
@pytest.mark.parametrize("step", MOMENTS)
def test_batches_on_the_lines(step: str, usable: int) -> None:
    predict = Counted(lambda b: figures(MOMENTS[step](b)))
    (found,) = largest_batches(predict, {"card": usable}).values()
    assert found == max((b for b in range(1, 12_000) if max(MOMENTS[step](b)) <= usable), default=0)


def test_few_predictions_are_enough() -> None:
    predict = Counted(lambda b: figures(MOMENTS["affine"](b)))
    assert largest_batches(predict, {"small": 100_000, "large": 7_777_777}) == {"small": 33, "large": 11_096}
    assert predict.asked == [64, 128, 33, 11_096]


@pytest.mark.parametrize(
    "timeline",
    [
        lambda b: [1000, 1000 + 7 * b * b],
        lambda b: [1000, 1000 + 7 * b + (5_000_000 if b > 500 else 0)],
        lambda b: [1000, 1000 + 7000 * b] + [0] * (b > 100),
    ],
    ids=["square", "jump", "other moments"],
)
def test_what_is_not_affine_is_searched(timeline: Callable[[int], list[int]]) -> None:
    known = Counted(lambda b: figures(timeline(b)))
    (found,) = largest_batches(known, {"card": 4_000_000}).values()
    assert max(timeline(found)) <= 4_000_000 < max(timeline(found + 1))


def test_a_real_step() -> None:
    with StepPredictor(lambda: PerceptronStep(1)) as predict:
        usable = {"a": predict(200).peak_bytes, "b": predict(333).peak_bytes + 700}
        assert largest_batches(predict, usable) == {"a": 200, "b": 333}
        assert largest_batch(lambda batch: predict(batch).peak_bytes, usable["b"]) == 333
