"""Scores of videos: averages over views, accuracies, and rows that several processes fill."""

from typing import Any

import numpy as np
import pytest
import torch

from videomae_fast.recipes.scores import ClassScores, Evaluation

CPU = torch.device("cpu")


class OneProcess:
    """Adds up what other processes would send."""

    def __init__(self, *others: ClassScores) -> None:
        self.others = others

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        name = "scores" if tensor.ndim == 2 else "read"
        return sum((getattr(other, name) for other in self.others), tensor)


def evaluation(scores: Any, labels: list[int], read: list[bool] | None = None) -> Evaluation:
    rows = np.asarray(scores, dtype=np.float32)
    return Evaluation(rows, np.array(labels), np.array(read or [True] * len(labels)))


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_views_are_averaged_as_said(average: str) -> None:
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    scores = ClassScores(4, 7, average, CPU)
    scores.add(torch.tensor([2, 0, 3]), logits)
    found, read = scores.merged(OneProcess())
    expected = logits.softmax(2).mean(1) if average == "softmax" else logits.mean(1).softmax(1)
    np.testing.assert_allclose(found[[2, 0, 3]], expected, rtol=1e-5)
    assert read.tolist() == [True, False, True, True] and not found[1].any()


def test_the_number_of_processes_changes_no_bit() -> None:
    logits, videos = torch.randn(6, 4, 9), torch.arange(6)
    alone, *ranks = (ClassScores(6, 9, "softmax", CPU) for _ in range(4))
    for video in videos:
        alone.add(video[None], logits[video][None])
        ranks[int(video) % 3].add(video[None], logits[video][None])
    merged, read = ranks[0].merged(OneProcess(*ranks[1:]))
    assert read.all() and np.array_equal(merged, alone.merged(OneProcess())[0])


def test_half_precision_logits_are_averaged_in_float32() -> None:
    scores = ClassScores(1, 2, "softmax", CPU)
    scores.add(torch.tensor([0]), torch.tensor([[[1.0, 2.0], [3.0, 1.0]]], dtype=torch.bfloat16))
    assert scores.scores.dtype == torch.float32 and scores.scores.sum() == pytest.approx(1, abs=1e-6)


def test_accuracies() -> None:
    """Labels at places 0, 1, 5 and 2; the last video is missing."""
    rows = [[9, 1, 2, 3, 4, 5], [9, 8, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1], [0, 1, 2, 3, 4, 5], [9, 0, 0, 0, 0, 0]]
    found = evaluation(rows, [0, 1, 5, 3, 1], [True, True, True, True, False])
    assert [found.accuracy(top) for top in (1, 2, 3, 5, 6)] == [0.25, 0.5, 0.75, 0.75, 1.0]
    summary = found.summary()
    assert summary == {"top1": 0.25, "top5": 0.75, "mean_class_accuracy": 0.25, "videos": 4, "missing": 1}
    videos, right = found.per_class()
    assert videos.tolist() == [1, 1, 0, 1, 0, 1] and right.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.predictions(2)[:2].tolist() == [[0, 5], [0, 1]]


def test_of_equal_scores_the_lower_class_is_predicted_and_counts_before() -> None:
    found = evaluation([[1, 1, 1], [1, 1, 1]], [0, 2])
    assert found.predictions().tolist() == [0, 0]
    assert [found.accuracy(top) for top in (1, 2, 3)] == [0.5, 0.5, 1.0]


def test_confusion_counts_true_rows_and_predicted_columns() -> None:
    found = evaluation([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1, 1], [True, True, True, False])
    assert found.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_nothing_read_is_no_number() -> None:
    found = evaluation([[1, 0]], [1], [False])
    assert np.isnan([found.accuracy(), found.summary()["mean_class_accuracy"]]).all()


def test_unknown_average() -> None:
    with pytest.raises(ValueError, match=r"average must be one of \('softmax', 'logits'\), got 'mean'"):
        ClassScores(1, 1, "mean", CPU)
