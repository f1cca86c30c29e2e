"""Ranks of right candidates against whole matrices, and the figures of ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from videomae_fast.recipes.retrieval import rank_candidates, retrieval_figures


def written_out(x: Tensor, y: Tensor, right: Tensor) -> Tensor:
    """Query by query, with all candidates sorted: the worst place that ties allow."""
    similar = (x.double() @ y.double().T).float()
    ranks = []
    for query, row in enumerate(similar):
        own = set(right[right[:, 0] == query, 1].tolist())
        order = sorted(range(len(y)), key=lambda k: (-float(row[k]), k in own))  # wrong ones first
        ranks.append(1 + sum(k not in own for k in order[: next(p for p, k in enumerate(order) if k in own)]))
    return torch.tensor(ranks)


def features(n: int, m: int, dim: int = 4, levels: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 features, of few values if `levels` says so, and one to three right candidates of each query."""
    generator = torch.Generator().manual_seed(n * 1000 + m + levels)
    x, y = (torch.randn(k, dim, generator=generator, dtype=torch.float64) for k in (n, m))
    if levels:
        x, y = ((each * levels).round() / levels for each in (x, y))
    counts = torch.randint(1, 4, (n,), generator=generator)
    pairs = [(i, int(j)) for i in range(n) for j in torch.randperm(m, generator=generator)[: counts[i]]]
    order = torch.randperm(len(pairs), generator=generator)
    return x, y, torch.tensor(pairs)[order]


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("n, m", [(1, 1), (1, 9), (17, 5), (23, 31)])
@pytest.mark.parametrize("tile", [1, 4, 1000])
def test_ranks_are_those_of_the_whole_matrix(n: int, m: int, levels: int, tile: int) -> None:
    x, y, right = features(n, m, levels=levels)
    found = rank_candidates(x, y, right, tile=tile)
    assert torch.equal(found.rank, written_out(x, y, right))


@pytest.mark.parametrize("levels", [0, 2])
def test_the_best_candidates(levels: int) -> None:
    x, y, right = features(13, 11, levels=levels)
    similar = (x @ y.T).float()
    for top in (1, 3, 20):
        found = rank_candidates(x, y, right, top=top, tile=4)
        torch.testing.assert_close(found.similarity, similar.sort(1, descending=True)[0][:, :top], rtol=0, atol=0)
        assert torch.equal(similar.gather(1, found.best), found.similarity)
        assert all(len(set(row)) == min(top, 11) for row in found.best.tolist())


def test_processes_share_the_queries() -> None:
    x, y, right = features(23, 31, levels=2)
    whole = rank_candidates(x, y, right, top=5)
    for rank in range(3):
        part = rank_candidates(x, y, right, slice(rank, None, 3), top=5, tile=4)
        assert torch.equal(part.rank, whole.rank[rank::3])
        assert torch.equal(part.similarity, whole.similarity[rank::3])


def test_a_process_without_queries_has_an_empty_ranking() -> None:
    x, y, right = features(2, 3)
    found = rank_candidates(x, y, right, slice(2, None, 4), top=2)
    assert found.rank.shape == (0,) and found.best.shape == found.similarity.shape == (0, 2)
    assert found.rank.dtype == found.best.dtype == torch.int64


def test_features_that_are_all_equal_rank_last() -> None:
    """Not first: a collapsed model must not look perfect."""
    x, right = torch.ones(6, 3), torch.arange(6)[:, None].expand(6, 2)
    assert rank_candidates(x, x, right).rank.tolist() == [6] * 6
    two = torch.cat([right, torch.tensor([[0, 1]])])
    assert rank_candidates(x, x, two).rank.tolist() == [5, *[6] * 5]  # of six candidates, two are right


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_candidates_tie_in_any_tile(dtype: torch.dtype) -> None:
    """The wrong copy of a right candidate is as good, wherever it is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 65, generator=generator).to(dtype)
    y = torch.cat([x, torch.randn(30, 65, generator=generator).to(dtype), x])
    right = torch.arange(40)[:, None].expand(40, 2)
    for tile in (7, 32, 1000):
        assert rank_candidates(x, y, right, tile=tile).rank.tolist() == [2] * 40


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else [found]:
            self.elements = max(self.elements, each.numel() if isinstance(each, Tensor) else 0)
        return found


def test_the_matrix_is_never_whole() -> None:
    x, y, right = features(500, 700)
    with LargestTensor() as seen:
        rank_candidates(x, y, right, top=5, tile=50)
    assert 50 * 50 <= seen.elements <= max(50 * 55, 700 * 4, 2 * len(right)) < 500 * 700 // 50


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.ones(3)}, r"got \(3,\), \(4, 2\) and \(3, 2\)"),
        ({"y": torch.ones(4, 3)}, r"got \(3, 2\), \(4, 3\) and"),
        ({"right": torch.tensor([[0, 0], [1, 1], [3, 2]])}, r"right must name query numbers in \[0, 3\), got 0 to 3"),
        ({"right": torch.tensor([[0, 0], [1, -1], [2, 2]])}, r"candidate numbers in \[0, 4\), got -1 to 2"),
        ({"right": torch.tensor([[0, 0], [2, 1], [2, 2]])}, "a candidate for each query, 1 of 3 have none"),
        ({"x": torch.full((3, 2), torch.nan)}, "x is NaN or infinite"),
        ({"y": torch.full((4, 2), torch.inf)}, "y is NaN or infinite"),
    ],
)
def test_bad_arguments(change: dict[str, Tensor], message: str) -> None:
    given: dict[str, Any] = {
        "x": torch.ones(3, 2),
        "y": torch.ones(4, 2),
        "right": torch.tensor([[0, 0], [1, 1], [2, 3]]),
    }
    with pytest.raises(ValueError, match=message):
        rank_candidates(**(given | change))


def test_figures() -> None:
    assert retrieval_figures([1, 2, 5, 6, 10, 11]) == {"r1": 1 / 6, "r5": 0.5, "r10": 5 / 6, "mdr": 5.5}
    assert retrieval_figures(torch.tensor([3, 1, 1]))["mdr"] == 1.0
    assert retrieval_figures(np.array([7])) == {"r1": 0.0, "r5": 0.0, "r10": 1.0, "mdr": 7.0}
