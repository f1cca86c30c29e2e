"""Recall at 1 against its definition, pair by pair."""

import pytest
import torch

from videomae_fast.recipes import recall
from videomae_fast.recipes.recall import recall_at_1, recalls


@pytest.mark.parametrize("tile", [3, 1024])
def test_recall_is_its_definition(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal videos, equal captions, ties, and rows that several processes share."""
    monkeypatch.setattr(recall, "TILE", tile)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randint(-2, 3, (40, 3), generator=generator).float() for _ in range(2))
    x_ids, y_ids = (torch.randint(0, 25, (40,), generator=generator) for _ in range(2))
    expected = []
    for i in range(40):
        scores = [(float(x[i] @ y[j]), bool(x_ids[i] == x_ids[j] or y_ids[i] == y_ids[j])) for j in range(40)]
        own, others = ([score for score, is_own in scores if is_own == wanted] for wanted in (True, False))
        expected.append(max(own) > max(others))
    found = recall_at_1(x, y, x_ids, y_ids)
    assert found.tolist() == expected and 0 < sum(expected) < 40
    shares = [recalls(x, y, x_ids, y_ids, rank, 3)["video_to_text"] for rank in range(3)]
    assert torch.stack(shares).sum(0).tolist() == [sum(expected), 40]
    assert recall_at_1(x, y, x_ids, y_ids, slice(50, None)).shape == (0,)


def test_a_tie_is_a_miss() -> None:
    x, ids = torch.ones(3, 2), torch.arange(3)
    assert not recall_at_1(x, x, ids, ids).any()
    assert recall_at_1(x, x, torch.zeros(3, dtype=torch.int64), ids).all()  # nothing else to find
