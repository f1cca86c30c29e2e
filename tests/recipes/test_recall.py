"""Recall at 1 against its definition, pair by pair."""

import torch

from videomae_fast.recipes.recall import distinct_rows, recalls


def test_recall_is_its_definition() -> None:
    """With equal videos, equal captions, ties, and rows that several processes share."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-2, 3, (40, 4), generator=generator).float()
    y = x + torch.randint(-1, 2, (40, 4), generator=generator)
    x_ids, y_ids = (torch.randint(0, 25, (40,), generator=generator).tolist() for _ in range(2))
    known = set(zip(x_ids, y_ids, strict=True))
    video, text = ({k: rows[ids.index(k)] for k in ids} for rows, ids in ((x, x_ids), (y, y_ids)))
    expected = []
    for video_id, row in video.items():
        scores = [(float(row @ other), (video_id, text_id) in known) for text_id, other in text.items()]
        own, others = ([score for score, is_own in scores if is_own == wanted] for wanted in (True, False))
        expected.append(max(own) > max(others))
    shares = [recalls(x, y, torch.tensor(x_ids), torch.tensor(y_ids), rank, 3) for rank in range(3)]
    found = torch.stack([share["video_to_text"] for share in shares]).sum(0)
    assert found.tolist() == [sum(expected), len(video)] and 0 < sum(expected) < len(video)
    total = torch.stack([share["text_to_video"] for share in shares]).sum(0)
    assert total[1] == len(text) and total.dtype == torch.float64
    spare = recalls(x[:2], y[:2], torch.tensor([0, 1]), torch.tensor([0, 1]), 5, 8)
    assert spare["text_to_video"].tolist() == [0, 0]


def test_a_tie_is_a_miss() -> None:
    x, ids = torch.ones(3, 2), torch.arange(3)
    assert recalls(x, x, ids, ids, 0, 1)["text_to_video"].tolist() == [0, 3]
    assert recalls(x, x, ids, torch.zeros_like(ids), 0, 1)["text_to_video"].tolist() == [1, 1]  # nothing else to find


def test_pairs_that_share_a_side() -> None:
    """Two clips of one video, and one caption of two videos."""
    x, y = torch.arange(5)[:, None].float(), torch.arange(5)[:, None] + 10.0
    captions, videos = torch.tensor([7, 3, 7, 9, 7]), torch.tensor([2, 2, 1, 5, 2])
    text, video, right = distinct_rows(x, y, captions, videos)
    assert text.flatten().tolist() == [1, 0, 3] and video.flatten().tolist() == [12, 10, 13]
    assert sorted(map(tuple, right.tolist())) == [(0, 1), (1, 0), (1, 1), (2, 2)]
