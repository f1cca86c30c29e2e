"""Class scores of videos: averaged over views, merged over processes, and what they say about a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

AVERAGES = ("softmax", "logits")
TOP = 5  # the second accuracy that is always reported


class ClassScores:
    """One row of scores for each video of a list; every process fills the rows of its own videos.

        "softmax":  score = mean over views of softmax(logits), as published
        "logits":   score = softmax(mean over views of logits)

    The views of a video come together and are averaged in float32, and no row has two writers. So the merged scores do
    not depend on the number of processes.

    Args:
        num_videos: n, videos of the list.
        num_classes: C.
        average: one of AVERAGES.
        device: of the model.

    Raises:
        ValueError: `average` is unknown.

    References:
        `final_test` and `merge` in engine_for_finetuning.py of VideoMAE V2.
    """

    def __init__(self, num_videos: int, num_classes: int, average: str, device: torch.device) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average must be one of {AVERAGES}, got '{average}'")
        self.average = average
        self.scores = torch.zeros(num_videos, num_classes, device=device)
        self.read = torch.zeros(num_videos, device=device)

    def add(self, video: Tensor, logits: Tensor) -> None:
        """Take the logits of all views of some videos.

        Args:
            video: (v,) int64 numbers of the videos, on the device of the scores; each once in all calls.
            logits: (v, views, C) floating.
        """
        logits = logits.float()
        mean = logits.softmax(2).mean(1) if self.average == "softmax" else logits.mean(1).softmax(1)
        self.scores.index_copy_(0, video, mean)
        self.read.index_fill_(0, video, 1.0)

    def merged(self, accelerator: Any) -> tuple[np.ndarray, np.ndarray]:
        """The scores of all processes.

        Args:
            accelerator: `accelerate.Accelerator` of the processes; each calls this.

        Returns:
            (n, C) float32 scores, zeros for a video that nobody read, and (n,) bool, whether it was read.
        """
        scores, read = (accelerator.reduce(each, reduction="sum").cpu() for each in (self.scores, self.read))
        return scores.numpy(), read.numpy() > 0


def label_places(scores: Tensor, labels: Tensor) -> Tensor:
    """The place of each label among the classes: how many have a higher score, or an equal one and a lower number.

    So constant scores are right for one class, not for all, and an accuracy does not depend on how ties are sorted.

    Args:
        scores: (n, C) floating, finite.
        labels: (n,) int64 class numbers.

    Returns:
        (n,) int64 in [0, C); a label is among the k best if its place is below k.
    """
    own = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & lower)).sum(1)


@dataclass(frozen=True)
class Evaluation:
    """The scores of videos beside their labels. Accuracies are of the videos that were read.

    Attributes:
        scores: (n, C) float32, finite.
        labels: (n,) int64 class numbers.
        read: (n,) bool; the others are missing and count nowhere.
        class_names: name of each class; empty if classes are only numbers.
    """

    scores: np.ndarray
    labels: np.ndarray
    read: np.ndarray
    class_names: Sequence[str] = ()

    def accuracy(self, top: int = 1) -> float:
        """The share of videos whose label is among the `top` highest scores (`label_places`); NaN if none was read."""
        return float(np.mean(self._places() < top)) if self.read.any() else float("nan")

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) int64 numbers of videos of each class, and (C,) of those predicted right."""
        right = self.predictions()[self.read] == self.labels[self.read]
        classes = self.scores.shape[1]
        videos = np.bincount(self.labels[self.read], minlength=classes)
        return videos, np.bincount(self.labels[self.read][right], minlength=classes)

    def confusion(self) -> np.ndarray:
        """(C, C) int64: videos of class [row] that were predicted as class [column]."""
        classes = self.scores.shape[1]
        pairs = self.labels[self.read] * classes + self.predictions()[self.read]
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def predictions(self, top: int = 1) -> np.ndarray:
        """(n,) int64 classes of the highest score; with `top` > 1, (n, min(top, C)), highest first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")
        return order[:, 0] if top == 1 else order[:, :top]

    def summary(self) -> dict[str, float | int]:
        """The figures of an evaluation: accuracies in [0, 1], videos and missing videos."""
        videos, right = self.per_class()
        seen = videos > 0
        return {
            "top1": self.accuracy(),
            f"top{TOP}": self.accuracy(TOP),
            "mean_class_accuracy": float((right[seen] / videos[seen]).mean()) if seen.any() else float("nan"),
            "videos": int(self.read.sum()),
            "missing": int((~self.read).sum()),
        }

    def _places(self) -> np.ndarray:
        return label_places(torch.from_numpy(self.scores[self.read]), torch.from_numpy(self.labels[self.read])).numpy()
