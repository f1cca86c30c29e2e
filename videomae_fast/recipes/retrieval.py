"""Retrieval: the rank of the right candidates of each query, and the figures of all ranks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TILE = 1024  # queries, and candidates, whose similarities are in memory at a time
RECALLS = (1, 5, 10)


class Ranking(NamedTuple):
    """What r queries find.

    Attributes:
        rank: (r,) int64, 1 + the wrong candidates that are at least as similar as the best right one.
        best: (r, k) int64, the most similar candidates, best first.
        similarity: (r, k) float32, their similarities.
    """

    rank: Tensor
    best: Tensor
    similarity: Tensor


def rank_candidates(
    x: Tensor, y: Tensor, right: Tensor, rows: slice = slice(None), top: int = 1, tile: int = TILE
) -> Ranking:
    """Rank candidates for queries.

        S[i, j] = x[i]·y[j]    rank[i] = 1 + |{j wrong for i : S[i, j] ≥ max over right j of S[i, j]}|

    Of several right candidates, the best one counts. A tie with a wrong candidate is decided against the model, so that
    rows that are all equal rank last. Similarities are summed in float64 and rounded to float32, so that equal rows tie
    whichever tile they are in, and the ranks are the same for any tiles and any number of processes.

    Args:
        x: (n, E) floating, the queries.
        y: (m, E) floating, the candidates, on the device of `x`.
        right: (p, 2) int64 pairs of a query and a candidate that is right for it, on any device; one or more for each
            query, each once.
        rows: the queries to rank, by default all. A process takes its own.
        top: k, the candidates to return; all m if there are fewer. Which of equally similar ones is not specified.
        tile: sides of the tiles of S; S is never whole.

    Returns:
        The ranking of these queries, on the device of `x`.

    Raises:
        ValueError: sizes differ, `right` names rows that do not exist or leaves a query without a candidate, or a
            feature is NaN or infinite.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or right.ndim != 2 or right.shape[1] != 2:
        raise ValueError(
            f"x, y and right must be (n, E), (m, E) and (p, 2), got {tuple(x.shape)}, {tuple(y.shape)} and "
            f"{tuple(right.shape)}"
        )
    for name, side, count in (("query", right[:, 0], len(x)), ("candidate", right[:, 1], len(y))):
        if len(side) and (int(side.min()) < 0 or int(side.max()) >= count):
            low, high = int(side.min()), int(side.max())
            raise ValueError(f"right must name {name} numbers in [0, {count}), got {low} to {high}")
    if lacking := len(x) - len(right[:, 0].unique()):
        raise ValueError(f"right must have a candidate for each query, {lacking} of {len(x)} have none")
    for name, features in (("x", x), ("y", y)):
        if not features.isfinite().all():
            raise ValueError(f"{name} is NaN or infinite: the weights are damaged, or too large for the precision")
    asked = torch.arange(len(x), device=x.device)[rows]
    place = torch.full((len(x),), -1, device=x.device)
    place[asked] = torch.arange(len(asked), device=x.device)
    pairs = torch.stack([place[right[:, 0].to(x.device)], right[:, 1].to(x.device)])
    found = [
        _ranked(x[some], y, _within(pairs, 0, number * tile, tile), top, tile)
        for number, some in enumerate(asked.split(tile))
    ]
    return Ranking(*map(torch.cat, zip(*found, strict=True)))


def _ranked(x: Tensor, y: Tensor, pairs: Tensor, top: int, tile: int) -> Ranking:
    """The ranking of the queries of one tile."""
    x = x.double()
    own = (x[pairs[0]] * y[pairs[1]].double()).sum(1).float()
    best_right = own.new_full((len(x),), -torch.inf).scatter_reduce(0, pairs[0], own, "amax")
    rank = torch.ones(len(x), dtype=torch.int64, device=x.device)
    best = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    similarity = torch.empty(len(x), 0, device=x.device)
    for first in range(0, len(y), tile):
        similar = (x @ y[first : first + tile].double().T).float()
        columns = torch.arange(first, first + similar.shape[1], device=x.device).expand_as(similar)
        joined = torch.cat([similarity, similar], 1)
        similarity, places = joined.topk(min(top, joined.shape[1]), 1)
        best = torch.cat([best, columns], 1).gather(1, places)
        here = _within(pairs, 1, first, tile)
        similar[here[0], here[1]] = -torch.inf
        rank += (similar >= best_right[:, None]).sum(1)
    return Ranking(rank, best, similarity)


def _within(pairs: Tensor, row: int, first: int, count: int) -> Tensor:
    """The pairs whose numbers in a row are in [first, first + count), counted from `first` there."""
    kept = pairs[:, (pairs[row] >= first) & (pairs[row] < first + count)].clone()
    kept[row] -= first
    return kept


def retrieval_figures(rank: Tensor | np.ndarray | Sequence[int]) -> dict[str, float]:
    """Recall at 1, 5 and 10, and the median rank.

    Args:
        rank: (n,) ranks from 1 on, n at least 1.

    Returns:
        "r1", "r5" and "r10", the shares of queries whose rank is at most 1, 5 and 10, and "mdr", the median: the mean
        of the two middle ranks if n is even.
    """
    ranks = np.asarray(rank)
    return {f"r{k}": float(np.mean(ranks <= k)) for k in RECALLS} | {"mdr": float(np.median(ranks))}
