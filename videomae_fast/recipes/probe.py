"""What cached features tell about classes: k nearest neighbours, and a linear classifier on frozen features.

Both are pure functions of features and labels. Both return scores (m, C) that `recipes.scores.Evaluation` takes:

    Evaluation(knn(train, labels, test, C), test_labels, read=np.ones(m, bool))

Neither sees labels of the test set, and nothing is chosen by them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = Tensor | np.ndarray
PROBES = ("knn", "linear")
TEST_ROWS, TRAIN_ROWS = 1024, 16384  # of a block of similarities: 64 MiB
HELD_OUT = 0.2  # share of each class of the training set that chooses the weight decay
MAX_STEPS = 1000
LARGEST_GRADIENT = 1e-5  # of a converged fit, unless float32 cannot tell losses apart before
ROUNDING = 1e-6  # a feature that deviates less, relative to its mean, is constant


def knn(
    train: Array, labels: Array, test: Array, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Class scores by the weighted vote of the k nearest neighbours in cosine similarity.

        s_ij = cos(test_i, train_j)
        score[i, c] = Σ_j softmax_j(s_ij / temperature) · [labels_j = c],    j over the k largest s_ij

    The softmax divides the votes exp(s / temperature) of a row by their sum, which changes no order of classes. The
    search is exact. It goes over blocks of both sets, so only normalised copies of the features and the scores grow
    with them. Of equal similarities at place k, any may count.

    Args:
        train: (n, D) floating features.
        labels: (n,) integers in [0, num_classes).
        test: (m, D) floating features, on the device of `train`.
        num_classes: C.
        k: neighbours, at most n.
        temperature: positive.

    Returns:
        (m, C) float32; rows sum to 1.

    Raises:
        TypeError: features are not floating, or labels are no integers.
        ValueError: a shape, device or number is wrong; a feature is not finite or a row of features is 0; labels are
            out of range or of one class only.

    References:
        Wu et al., arXiv 1805.01978, section 3.4; k and temperature as in DINO, arXiv 2104.14294 (eval_knn.py).
    """
    train, labels, test = _check(train, labels, test, num_classes)
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be in [1, {len(train)}], the rows of train, got {k}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    train, test = _directions(train, "train"), _directions(test, "test")
    scores = torch.zeros(len(test), num_classes)
    for rows, shares in zip(test.split(TEST_ROWS), scores.split(TEST_ROWS), strict=True):
        similarity, neighbour = _nearest(rows, train, k)
        votes = (similarity / temperature).softmax(1)
        shares.scatter_add_(1, labels[neighbour].cpu(), votes.float().cpu())  # on a GPU sums would have no fixed order
    return scores.numpy()


def _nearest(rows: Tensor, train: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest products (m, k) of each row with rows of `train`, and which rows those are."""
    best, where = rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
    for number, block in enumerate(train.split(TRAIN_ROWS)):
        found, place = (rows @ block.T).topk(min(k, len(block)))
        best, where = torch.cat([best, found], 1), torch.cat([where, place + number * TRAIN_ROWS], 1)
        best, kept = best.topk(min(k, best.shape[1]))
        where = where.gather(1, kept)
    return best, where


def _directions(features: Tensor, name: str) -> Tensor:
    lengths = features.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise ValueError(f"{name} must have no row of zeros, which has no direction, got one in row {lengths.argmin()}")
    return features / lengths


@dataclass(frozen=True)
class LinearProbe:
    """What a linear probe found.

    Attributes:
        scores: (m, C) float32 class probabilities of the test rows; 0 for a class without training rows.
        weight_decay: the one that was used.
        held_out: top-1 accuracy on the held-out part of the training set by weight decay; empty if there was no choice.
    """

    scores: np.ndarray
    weight_decay: float
    held_out: dict[float, float]


def linear_probe(
    train: Array,
    labels: Array,
    test: Array,
    num_classes: int,
    *,
    weight_decays: Sequence[float] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    seed: int = 0,
) -> LinearProbe:
    """Class scores by softmax regression on standardised features.

        z = (x − mean) / std,    mean and std of the training rows
        W, b = argmin  mean_i −log softmax(W z_i + b)[labels_i] + weight_decay / 2 · ‖W‖²
        score = softmax(W z + b)

    The problem is convex; L-BFGS solves it over all rows at once, from 0. The weight decay is the one with the best
    top-1 accuracy on held-out rows, HELD_OUT of each class of the *training* set; of equal ones the one with the lower
    cross-entropy there. The last fit is on all training rows. Give one row per video: windows of one video in both
    parts of the training set would choose too small a weight decay.

    Args:
        train: (n, D) floating features.
        labels: (n,) integers in [0, num_classes).
        test: (m, D) floating features, on the device of `train`.
        num_classes: C.
        weight_decays: positive; with one, nothing is held out.
        seed: of the choice of held-out rows.

    Returns:
        The scores of the test rows, the weight decay, and what it was chosen by.

    Raises:
        TypeError: features are not floating, or labels are no integers.
        ValueError: a shape, device or number is wrong; a feature is not finite; labels are out of range or of one class
            only; or no class has the two rows that a choice of weight decay needs.

    Warns:
        UserWarning: the last fit has not converged after MAX_STEPS steps.
    """
    train, labels, test = _check(train, labels, test, num_classes)
    decays = sorted(set(weight_decays), reverse=True)
    if not decays or not all(0 < decay < float("inf") for decay in decays):
        raise ValueError(f"weight_decays must be one or more positive, finite numbers, got {tuple(weight_decays)}")
    classes, numbers = labels.unique(return_inverse=True)
    held_out: dict[float, float] = {}
    best = decays[0]
    if len(decays) > 1:
        held = _hold_out(numbers, seed)
        figures = _try(train, numbers, held, decays)
        held_out = {decay: accuracy for decay, (accuracy, _) in figures.items()}
        best = max(figures, key=lambda decay: (figures[decay][0], -figures[decay][1]))
    train, test = _standardise(train, test)
    weight, converged = _fit(train, numbers, best, train.new_zeros(train.shape[1] + 1, len(classes)))
    if not converged:
        warnings.warn(f"the fit at weight decay {best:g} has not converged in {MAX_STEPS} steps", stacklevel=2)
    scores = torch.zeros(len(test), num_classes)
    scores[:, classes.cpu()] = _logits(test, weight).softmax(1).float().cpu()
    return LinearProbe(scores.numpy(), best, held_out)


def _hold_out(labels: Tensor, seed: int) -> Tensor:
    """(n,) bool: rows that are held out, at least one of every class of two rows or more, and never a whole class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    grouped, by_class = labels[order].sort(stable=True)
    count = labels.bincount()
    quota = (HELD_OUT * count).round().long().clamp(min=1).minimum(count - 1)
    if not bool(quota.any()):
        raise ValueError(
            "labels has no class of two rows, so nothing can be held out to choose a weight decay: give one in "
            "weight_decays"
        )
    rank = torch.arange(len(labels), device=labels.device) - (count.cumsum(0) - count)[grouped]
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    held[order[by_class]] = rank < quota[grouped]
    return held


def _try(train: Tensor, labels: Tensor, held: Tensor, decays: list[float]) -> dict[float, tuple[float, float]]:
    """Accuracy and cross-entropy on the held-out rows by weight decay; each fit begins where the last one ended."""
    rows, others = _standardise(train[~held], train[held])
    weight = rows.new_zeros(rows.shape[1] + 1, int(labels.max()) + 1)
    figures = {}
    for decay in decays:
        weight, _ = _fit(rows, labels[~held], decay, weight)
        logits = _logits(others, weight)
        right = logits.argmax(1) == labels[held]
        figures[decay] = right.double().mean().item(), F.cross_entropy(logits, labels[held]).item()
    return figures


def _fit(rows: Tensor, labels: Tensor, decay: float, start: Tensor) -> tuple[Tensor, bool]:
    """The weight (D + 1, C), whose last row is the bias, and whether L-BFGS stopped by itself."""
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=MAX_STEPS,
        max_eval=25 * MAX_STEPS,  # 25 is the most that a line search takes
        tolerance_grad=LARGEST_GRADIENT,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(_logits(rows, weight), labels) + decay / 2 * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # with gradients, whatever the caller's mode
    return weight.detach(), optimizer.state[weight]["n_iter"] < MAX_STEPS


def _logits(rows: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(weight[-1], rows, weight[:-1])


def _standardise(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of features with the mean and deviation of the first; a constant feature becomes 0 in `rows`."""
    deviation, mean = torch.std_mean(rows, 0, correction=0)
    scale = torch.where(deviation > ROUNDING * mean.abs(), deviation, 1)
    return (rows - mean) / scale, (others - mean) / scale


def _check(train: Array, labels: Array, test: Array, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Checked tensors on one device: features in float32 or float64, labels in int64."""
    rows, others = _features(train, "train"), _features(test, "test")
    if rows.shape[1] != others.shape[1]:
        raise ValueError(f"test must have {rows.shape[1]} features as train, got {others.shape[1]}")
    if rows.device != others.device:
        raise ValueError(f"test must be on {rows.device} as train, got {others.device}")
    dtype = torch.promote_types(torch.promote_types(rows.dtype, others.dtype), torch.float32)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    given = torch.as_tensor(labels)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {given.dtype}")
    numbers = given.to(rows.device, torch.int64)
    if numbers.shape != rows.shape[:1]:
        raise ValueError(f"labels must have shape ({len(rows)},) as train has rows, got {tuple(numbers.shape)}")
    low, high = (int(number) for number in numbers.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got numbers from {low} to {high}")
    if low == high:
        raise ValueError(f"labels must be of two classes or more, got only class {low}")
    return rows.to(dtype), numbers, others.to(dtype)


def _features(given: Array, name: str) -> Tensor:
    features = torch.as_tensor(given).detach()
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must have shape (rows, features), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating, got {features.dtype}")
    finite = features.isfinite().all(1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise ValueError(
            f"{name} must be finite, but {bad} of {len(features)} rows are not, the first is row "
            f"{int((~finite).nonzero()[0])}"
        )
    return features
