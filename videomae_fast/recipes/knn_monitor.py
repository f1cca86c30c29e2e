"""kNN accuracy of an encoder while it is pre-trained: how well its features tell labelled videos apart."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._text import printable
from ..data.views import ViewDataset
from ..engine.log import say
from ..models.encoder import Encoder
from .probe import knn
from .views import FeaturesAsForward, view_logits

MOST_NEIGHBOURS = 20


class KnnMonitor:
    """Top-1 accuracy by the nearest neighbours among training videos; one centre view of each video.

    k is the number of training videos of a class, on average, but at most MOST_NEIGHBOURS.

    Args:
        train: labelled training videos, with numbered classes.
        test: labelled test videos, with the same numbers.
        batch_size: videos of a forward pass.
        workers: data-loading processes; 0 loads in this process.
    """

    def __init__(self, train: ViewDataset, test: ViewDataset, batch_size: int, workers: int) -> None:
        self.train, self.test, self.batch_size, self.workers = train, test, batch_size, workers
        self.classes = len(train.annotations.class_names)
        self.said: set[str] = set()

    def figures(self, encoder: Encoder, rank: int, world_size: int) -> dict[str, Tensor]:
        """The accuracy on the test videos of a process, as `Recipe.evaluate` returns it.

        An unreadable video counts nowhere, and is reported once.

        Args:
            encoder: the encoder, whole, in evaluation mode. Each process computes all training features.
            rank: number of this process, in [0, world_size).
            world_size: number of processes.

        Returns:
            {"knn_top1": (2,) float64}: right videos, and videos.

        Raises:
            ValueError: no training video can be read.
        """
        device = next(encoder.parameters()).device
        known, known_labels = self._features(encoder, self.train, 0, 1)
        asked, labels = self._features(encoder, self.test, rank, world_size)
        if not len(known):
            raise ValueError("knn_data: none of its videos can be read")
        right = 0
        if len(asked):
            k = min(MOST_NEIGHBOURS, max(1, len(known) // self.classes))
            scores = knn(known, known_labels, asked, self.classes, k=k)
            right = int((scores.argmax(1) == labels).sum())
        return {"knn_top1": torch.tensor([right, len(asked)], dtype=torch.float64, device=device)}

    def _features(
        self, encoder: Encoder, dataset: ViewDataset, rank: int, world_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        features: list[Tensor] = []
        labels: list[Tensor] = []
        for found in view_logits(FeaturesAsForward(encoder), dataset, self.batch_size, self.workers, rank, world_size):
            for missing in found.missing:
                if missing.path not in self.said:
                    say(f"unreadable video left out of kNN: {printable(missing.path)}: {missing.reason}")
                self.said.add(missing.path)
            features.append(found.logits.float().mean(1).cpu())
            labels.append(found.label.cpu())
        return _whole(features), _whole(labels)


def _whole(parts: Sequence[Tensor]) -> np.ndarray:
    return torch.cat(list(parts)).numpy()
