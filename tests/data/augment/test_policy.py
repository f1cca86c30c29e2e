import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.baselines.published import rand_augment as published
from videomae_fast.data.augment import AppliedOp, RandAugment, parse_rand_augment
from videomae_fast.data.augment.policy import GEOMETRIC, OPS, op_value
from videomae_fast.data.seeding import ERASING, RAND_AUGMENT, augmentation_rng

POLICY = RandAugment(7, 4, 0.5)
DRAWS = 6000


@pytest.fixture(scope="module")
def draws() -> list:
    return [POLICY.draw(augmentation_rng(3, sample, RAND_AUGMENT)) for sample in range(DRAWS)]


def within(count: int, trials: int, probability: float) -> bool:
    """Within five standard deviations of the binomial mean."""
    return abs(count - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability))


def test_published_strings_are_read() -> None:
    assert parse_rand_augment("rand-m7-n4-mstd0.5-inc1") == POLICY
    assert parse_rand_augment("rand-inc1-mstd0.5-m7") == RandAugment(7, 2, 0.5)
    assert parse_rand_augment("rand-m9-inc1") == RandAugment(9, 2, 0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "must have the form"),
        ("augmix-m7-inc1", "must have the form rand-m<magnitude>"),
        ("rand-m7-n4-w0-inc1", "unknown part 'w0'"),
        ("rand-m7--inc1", "unknown part ''"),
        ("rand-m-inc1", "unknown part 'm'"),
        ("rand-m7-m8-inc1", "m twice"),
        ("rand-m7-n4", "needs inc1"),
        ("rand-m7-n4-inc0", "needs inc1"),
        ("rand-n4-inc1", r"magnitude in \[0, 10\]"),
        ("rand-m11-inc1", r"magnitude in \[0, 10\]"),
        ("rand-m7-n0-inc1", "positive number of ops"),
        ("rand-m7-n1.5-inc1", "positive number of ops"),
    ],
)
def test_other_strings_are_errors(policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"rand_augment .*{message}"):
        parse_rand_augment(policy)


def test_ops_are_uniform_and_half_are_applied(draws: list) -> None:
    assert len(OPS) == 15 and len(GEOMETRIC) == 5 and set(OPS) > GEOMETRIC
    counts = Counter(one.op for draw in draws for one in draw)
    assert all(within(counts[op], 4 * DRAWS, 0.5 / 15) for op in OPS)
    lengths = Counter(map(len, draws))
    assert all(within(lengths[k], DRAWS, math.comb(4, k) / 16) for k in range(5))
    repeated = sum(len({one.op for one in draw}) < len(draw) for draw in draws)
    # With k of 4 applied, P(all different) = Π (1 − i / 15).
    different = sum(math.comb(4, k) / 16 * math.prod(1 - i / 15 for i in range(k)) for k in range(5))
    assert within(repeated, DRAWS, 1 - different)


def test_values_are_as_published(draws: list) -> None:
    """Degrees from N(21, 1.5), signs even; 1 bit where the magnitude passes 7.5, which is one deviation."""
    values = {op: np.array([one.value for draw in draws for one in draw if one.op == op]) for op in OPS}
    assert {*values["autocontrast"], *values["equalize"], *values["invert"]} == {0.0}
    for op, step in (("rotate", 3), ("shear_x", 0.03), ("shear_y", 0.03), ("translate_x", 0.045)):
        assert within(int((values[op] > 0).sum()), len(values[op]), 0.5)
        drawn = np.abs(values[op]) / step
        assert abs(drawn.mean() - 7) < 5 * 0.5 / len(drawn) ** 0.5 and abs(drawn.std() - 0.5) < 0.06
    for op in ("color", "contrast", "brightness", "sharpness"):
        assert within(int((values[op] > 1).sum()), len(values[op]), 0.5)
        assert abs(np.abs(values[op] - 1).mean() - 0.63) < 0.01
    assert {*values["posterize"]} == {1.0, 2.0}
    assert within(int((values["posterize"] == 1).sum()), len(values["posterize"]), 0.1587)
    assert abs(values["solarize"].mean() - (256 - 25.6 * 7 + 0.5)) < 3
    assert abs(values["solarize_add"].mean() - 76.5) < 2


def test_magnitude_seven_has_the_published_values() -> None:
    assert [op_value(op, 7, False) for op in ("rotate", "posterize", "solarize", "solarize_add")] == [21, 2, 77, 77]
    assert op_value("color", 7, True) == pytest.approx(0.37) and op_value("color", 7, False) == pytest.approx(1.63)
    assert op_value("shear_x", 7, True) == pytest.approx(-0.21)
    assert op_value("translate_y", 7, False) == pytest.approx(0.315)


def test_extreme_magnitudes_stay_in_range() -> None:
    assert [op_value(op, 10, False) for op in ("posterize", "solarize", "solarize_add")] == [1, 0, 110]
    assert [op_value(op, 0, False) for op in ("posterize", "solarize", "solarize_add")] == [4, 256, 0]
    clipped = RandAugment(10, 4, 5.0)
    drawn = (clipped.draw(augmentation_rng(0, sample, RAND_AUGMENT)) for sample in range(400))
    rotations = [one.value for draw in drawn for one in draw if one.op == "rotate"]
    assert max(map(abs, rotations)) == 30


def test_the_plain_rewriting_draws_alike(draws: list, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[AppliedOp] = []

    def record(image: Any, op: str, magnitude: float, negative: bool) -> Any:
        drawn.append(AppliedOp(op, op_value(op, magnitude, negative)))
        return image

    monkeypatch.setattr(published, "apply_op", record)
    monkeypatch.setattr(published.random, "random", random.Random(0).random)
    monkeypatch.setattr(published.random, "gauss", random.Random(1).gauss)
    monkeypatch.setattr(published.np.random, "choice", np.random.RandomState(2).choice)
    for _ in range(DRAWS):
        published.rand_augment([None], *POLICY)
    ours = [one for draw in draws for one in draw]
    assert abs(len(ours) - len(drawn)) < 5 * (2 * 4 * DRAWS * 0.25) ** 0.5
    for op in OPS:
        theirs, values = ([one.value for one in found if one.op == op] for found in (drawn, ours))
        assert abs(len(theirs) - len(values)) < 5 * (2 * 4 * DRAWS * 0.5 / 15) ** 0.5
        for power in (1, 2):  # means of values and of their squares
            a, b = np.array(theirs) ** power, np.array(values) ** power
            assert abs(a.mean() - b.mean()) <= 5 * math.sqrt(a.var() / len(a) + b.var() / len(b))


def test_draws_are_functions_of_seed_and_sample(draws: list) -> None:
    assert POLICY.draw(augmentation_rng(3, 17, RAND_AUGMENT)) == draws[17]
    assert any(POLICY.draw(augmentation_rng(4, sample, RAND_AUGMENT)) != draws[sample] for sample in range(10))
    assert any(POLICY.draw(augmentation_rng(3, sample, ERASING)) != draws[sample] for sample in range(10))
