"""Probes of features: neighbours against brute force, the linear classifier against Newton's method, bad input."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae_fast.recipes import probe
from videomae_fast.recipes.probe import knn, linear_probe
from videomae_fast.recipes.scores import Evaluation

CLASSES = 5


def clusters(rows: int, seed: int, noise: float = 1.0, counts: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Features (rows, 8) around one point per class, of unequal scales, and labels; `counts` rows of each class."""
    means = 2 * torch.randn(CLASSES, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    if counts:
        labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
    drawn = means[labels] + noise * torch.randn(len(labels), 8, dtype=torch.float64, generator=generator)
    return drawn * torch.logspace(-2, 2, 8, dtype=torch.float64) + 3, labels


def votes(train: Tensor, labels: Tensor, test: Tensor, k: int, temperature: float) -> np.ndarray:
    """The weighted vote, one test row and one neighbour at a time, divided by its sum."""
    scores = np.zeros((len(test), CLASSES))
    for row, x in enumerate(test.double()):
        similarity = [float(x @ y / (x.norm() * y.norm())) for y in train.double()]
        for j in sorted(range(len(train)), key=lambda j: -similarity[j])[:k]:
            scores[row, labels[j]] += np.exp(similarity[j] / temperature)
    return scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (6, 0.07), (29, 0.5)])
@pytest.mark.parametrize("blocks", [(1024, 16384), (3, 7)], ids=str)
def test_knn_by_brute_force(
    k: int, temperature: float, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TEST_ROWS", blocks[0])
    monkeypatch.setattr(probe, "TRAIN_ROWS", blocks[1])
    (train, labels), (test, _) = clusters(29, 0), clusters(11, 1)
    scores = knn(train, labels, test, CLASSES, k=k, temperature=temperature)
    assert scores.shape == (11, CLASSES) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, votes(train, labels, test, k, temperature), rtol=1e-5, atol=1e-7)


def test_knn_at_temperatures_where_exponentials_overflow() -> None:
    (train, labels), (test, _) = clusters(30, 0), clusters(6, 1)
    nearest = knn(train, labels, test, CLASSES, k=1)
    np.testing.assert_allclose(knn(train, labels, test, CLASSES, temperature=1e-9), nearest, atol=1e-6)


def test_knn_is_blind_to_lengths_and_takes_any_array() -> None:
    (train, labels), (test, _) = clusters(40, 0), clusters(9, 1)
    expected = knn(train, labels, test, CLASSES)
    longer = (train * torch.rand(40, 1, dtype=torch.float64) + 0.0).numpy()
    np.testing.assert_allclose(knn(longer, labels.numpy().astype(np.int16), test.numpy(), CLASSES), expected, rtol=1e-6)
    half = knn(train.bfloat16(), labels, test.float(), CLASSES)
    np.testing.assert_allclose(half, knn(train.bfloat16().double(), labels, test, CLASSES), rtol=1e-3, atol=1e-4)


def newton(rows: Tensor, labels: Tensor, decay: float, classes: int) -> Tensor:
    """The minimum of the regularised cross-entropy by Newton's method on all parameters at once, biases last."""
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    penalty = torch.full((rows.shape[1], classes), decay, dtype=rows.dtype)
    penalty[-1] = 0

    def loss(flat: Tensor) -> Tensor:
        weight = flat.view_as(penalty)
        return torch.nn.functional.cross_entropy(rows @ weight, labels) + (penalty * weight**2).sum() / 2

    weight = torch.zeros(penalty.numel(), dtype=rows.dtype)
    for _ in range(30):
        hessian = torch.autograd.functional.hessian(loss, weight)
        slope = torch.autograd.functional.jacobian(loss, weight)
        weight = weight - torch.linalg.lstsq(hessian, slope, driver="gelsd").solution  # a shift of all biases is free
    assert slope.abs().max() < 1e-10
    return weight.view_as(penalty)


@pytest.mark.parametrize("decay", [1.0, 0.01, 1e-3])
def test_linear_probe_by_newtons_method(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LARGEST_GRADIENT", 1e-9)
    (train, labels), (test, _) = clusters(60, 0), clusters(13, 1)
    mean, std = train.mean(0), train.std(0, correction=0)
    weight = newton((train - mean) / std, labels, decay, CLASSES)
    expected = ((test - mean) / std @ weight[:-1] + weight[-1]).softmax(1)
    found = linear_probe(train, labels, test, CLASSES, weight_decays=[decay])
    assert found.weight_decay == decay and found.held_out == {}
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-6)


def test_linear_probe_in_float32() -> None:
    (train, labels), (test, _) = clusters(200, 0), clusters(50, 1)
    exact, single = (linear_probe(train.to(d), labels, test.to(d), CLASSES) for d in (torch.float64, torch.float32))
    assert exact.weight_decay == single.weight_decay and exact.scores.dtype == np.float32
    np.testing.assert_allclose(single.scores, exact.scores, atol=2e-3)


def test_the_weight_decay_is_chosen_on_the_training_set_alone() -> None:
    """Noise wants a strong one; no test row, and no part of the test set, changes the choice."""
    generator = torch.Generator().manual_seed(0)
    train, labels = torch.randn(300, 100, generator=generator), torch.randint(2, (300,), generator=generator)
    train[:, 0] += 2.0 * labels
    choices = (1.0, 0.3, 1e-5)
    noisy = [linear_probe(train, labels, t, 2, weight_decays=choices) for t in (train[:7], 100 * train[:3])]
    assert noisy[0].held_out == noisy[1].held_out and noisy[0].weight_decay == noisy[1].weight_decay != 1e-5
    assert list(noisy[0].held_out) == list(choices)
    assert noisy[0].held_out[noisy[0].weight_decay] == max(noisy[0].held_out.values())
    chosen = noisy[0].weight_decay
    refit = linear_probe(train, labels, train[:7], 2, weight_decays=(chosen,))  # on all of the training rows
    assert np.array_equal(refit.scores, noisy[0].scores)


def test_a_seed_is_a_result() -> None:
    (train, labels), (test, _) = clusters(80, 0, noise=4), clusters(20, 1)
    first, same, other = (linear_probe(train, labels, test, CLASSES, seed=seed) for seed in (3, 3, 4))
    assert first.held_out == same.held_out != other.held_out
    assert np.array_equal(first.scores, same.scores)
    state = torch.get_rng_state()
    linear_probe(train, labels, test, CLASSES)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("counts", [(1, 2, 3, 10, 100), (5, 5, 5, 5, 5), (0, 0, 2, 1, 1)])
def test_held_out_rows(counts: tuple[int, ...]) -> None:
    """A fifth of each class, at least one row of those that have two, never all."""
    labels = torch.arange(5).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    held = probe._hold_out(labels, seed=0)
    for number, count in enumerate(counts):
        wanted = 0 if count < 2 else max(1, round(count / 5))
        assert int(held[labels == number].sum()) == wanted


def balanced(found: np.ndarray, labels: Tensor) -> float:
    return Evaluation(found, labels.numpy(), np.ones(len(labels), bool)).summary()["mean_class_accuracy"]


@pytest.mark.parametrize(
    "function", [partial(knn, k=3), lambda *given: linear_probe(*given).scores], ids=["knn", "linear"]
)
def test_imbalance_and_missing_classes(function: Callable[..., np.ndarray]) -> None:
    """Rare classes are found; class 4 is not in the test set, and class 5 of 7 nowhere: both are ordinary columns."""
    train, labels = clusters(0, 0, 0.3, counts=(200, 4, 9, 60, 5))
    test, wanted = clusters(0, 1, 0.3, counts=(10, 10, 10, 10, 0))
    mean, scale = train.mean(0), train.std(0)  # neighbours do not standardise
    found = function((train - mean) / scale, labels, (test - mean) / scale, 7)
    assert found.shape == (40, 7) and not found[:, 5:].any()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert balanced(found, wanted) > 0.9


def test_constant_features_do_no_harm() -> None:
    (train, labels), (test, _) = clusters(50, 0), clusters(9, 1)
    expected = linear_probe(train.float(), labels, test.float(), CLASSES)
    dead = torch.cat([train, torch.full((50, 1), 0.1), torch.zeros(50, 1)], 1).float()
    changed = torch.cat([test, torch.full((9, 1), 0.1), torch.zeros(9, 1)], 1).float()
    np.testing.assert_allclose(linear_probe(dead, labels, changed, CLASSES).scores, expected.scores, atol=1e-4)


def test_in_any_mode_of_gradients() -> None:
    (train, labels), (test, _) = clusters(50, 0), clusters(9, 1)
    expected = linear_probe(train, labels, test, CLASSES).scores
    with torch.inference_mode():
        features = [tensor.clone() for tensor in (train, labels, test)]
    with torch.no_grad():
        assert np.array_equal(linear_probe(*features, CLASSES).scores, expected)
        knn(*features, CLASSES)
    assert np.array_equal(linear_probe(train.requires_grad_(), labels, test, CLASSES).scores, expected)


def test_a_fit_that_does_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (test, _) = clusters(50, 0), clusters(9, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_probe(train, labels, test, CLASSES)
    monkeypatch.setattr(probe, "MAX_STEPS", 2)
    with pytest.warns(UserWarning, match=r"the fit at weight decay 0.1 has not converged in 2 steps"):
        linear_probe(train, labels, test, CLASSES, weight_decays=[0.1])


TRAIN, LABELS = clusters(12, 0)
HOLED = TRAIN.clone().index_fill_(0, torch.tensor([4, 7]), float("nan"))
BAD = [
    (dict(train=HOLED), ValueError, "train must be finite, but 2 of 12 rows are not, the first is row 4"),
    (dict(test=HOLED / 0), ValueError, "test must be finite, but 12 of 12 rows are not"),
    (dict(train=TRAIN[0]), ValueError, r"train must have shape \(rows, features\), got \(8,\)"),
    (dict(test=TRAIN[:0]), ValueError, r"test must have shape \(rows, features\), got \(0, 8\)"),
    (dict(test=TRAIN[:, :5]), ValueError, "test must have 8 features as train, got 5"),
    (dict(train=TRAIN.long()), TypeError, "train must be floating, got torch.int64"),
    (dict(labels=LABELS[:7]), ValueError, r"labels must have shape \(12,\) as train has rows, got \(7,\)"),
    (dict(labels=LABELS.double()), TypeError, "labels must be integers, got torch.float64"),
    (dict(labels=LABELS + 3), ValueError, r"labels must lie in \[0, 5\), got numbers from 3 to 7"),
    (dict(labels=LABELS - 9), ValueError, r"labels must lie in \[0, 5\), got numbers from -9 to -5"),
    (dict(labels=0 * LABELS + 3), ValueError, "labels must be of two classes or more, got only class 3"),
    (dict(num_classes=1), ValueError, "num_classes must be at least 2, got 1"),
]
NEIGHBOURS = [
    (dict(k=13), ValueError, r"k must be in \[1, 12\], the rows of train, got 13"),
    (dict(k=0), ValueError, r"k must be in \[1, 12\]"),
    (dict(temperature=0.0), ValueError, "temperature must be positive and finite, got 0.0"),
    (dict(train=0 * TRAIN), ValueError, "train must have no row of zeros, which has no direction, got one in row 0"),
    (dict(test=TRAIN * torch.eye(12, 1)), ValueError, "test must have no row of zeros"),
]
DECAYS = [
    (dict(weight_decays=()), ValueError, r"weight_decays must be one or more positive, finite numbers, got \(\)"),
    (dict(weight_decays=(0.1, -1)), ValueError, r"weight_decays must be .* got \(0.1, -1\)"),
    (dict(train=TRAIN[:5], labels=torch.arange(5)), ValueError, "labels has no class of two rows, so nothing can be"),
]


@pytest.mark.parametrize(
    "function, change, error, message",
    [(knn, *case) for case in (*BAD, *NEIGHBOURS)] + [(linear_probe, *case) for case in (*BAD, *DECAYS)],
)
def test_bad_input(function: Callable, change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = dict(train=TRAIN, labels=LABELS, test=TRAIN, num_classes=CLASSES) | change
    with pytest.raises(error, match=message):
        function(**given, **({"k": 3} if function is knn and "k" not in change else {}))
