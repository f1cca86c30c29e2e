"""The logits of the views of labelled videos, divided among processes. A video is never replaced by another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .._optional import require
from .._text import printable
from ..data.loader import leave_process_group, load
from ..data.view_batch import MissingVideo, ViewBatch, collate_views
from ..data.views import ViewDataset
from ..engine.log import say
from ..interop import FeatureModel
from ..models.encoder import Clip
from .scores import TOP, label_places


@dataclass(frozen=True)
class ViewLogits:
    """The logits of the views of n videos, and the videos that could not be read.

    Attributes:
        index: (n,) int64, numbers of the videos, on the device of the model.
        label: (n,) int64, their classes, likewise.
        logits: (n, views, C), as the model returned them.
        missing: the videos that could not be read.
    """

    index: Tensor
    label: Tensor
    logits: Tensor
    missing: list[MissingVideo]


class FeaturesAsForward(nn.Module):
    """`features` of an encoder or a classifier as its forward pass: (B, D) in the place of logits."""

    def __init__(self, model: FeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Clip) -> Tensor:
        """The features of clips."""
        return self.model.features(clip)


def view_logits(
    model: nn.Module, dataset: ViewDataset, batch_size: int, workers: int, rank: int, world_size: int
) -> Iterator[ViewLogits]:
    """Run a classifier on all views of the videos of a process.

    Process r has the videos r, r + world_size, and so on, each once. All processes run the model equally often, which a
    sharded model needs: where a process has no video left, the model sees a black clip that counts nowhere.

    Args:
        model: a classifier, in evaluation mode; the caller chooses autocast.
        dataset: the views.
        batch_size: videos of a forward pass.
        workers: data-loading processes; 0 loads in this process.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.

    Yields:
        The logits of a batch.

    Raises:
        ChildProcessError: a data-loading process died.
        TimeoutError: one takes too long.
    """
    device = next(model.parameters()).device
    views = dataset.segments * dataset.crops
    for batch in view_batches(dataset, batch_size, workers, rank, world_size):
        moved = batch.to(device, non_blocking=True)
        clips = _black_clip(dataset, device) if moved.clips is None else moved.clips
        logits = model(clips)[: views * len(moved.index)]
        logits = logits.view(len(moved.index), views, logits.shape[1])
        yield ViewLogits(moved.index, moved.label, logits, batch.missing)


class VideoFeatures(NamedTuple):
    """The features of n videos.

    Attributes:
        values: (n, D) float32 on the host, means over the views; zeros of a video that cannot be read.
        read: (n,) bool, which were read.
        missing: the videos that cannot be read, in order.
    """

    values: np.ndarray
    read: np.ndarray
    missing: list[MissingVideo]


def video_features(
    model: nn.Module, dataset: ViewDataset, dim: int, batch_size: int, workers: int, accelerator: Any
) -> VideoFeatures:
    """The features of videos, each averaged over its views; all processes compute a part, and all get all.

    Args:
        model: as `view_logits` takes it, with features in place of logits; the caller chooses autocast.
        dataset: the views.
        dim: D.
        batch_size: videos of a forward pass.
        workers: data-loading processes; 0 loads in this process.
        accelerator: `accelerate.Accelerator` of the processes; each calls this.

    Returns:
        The features, the same in every process.

    Raises:
        ChildProcessError: a data-loading process died.
        TimeoutError: one takes too long.
    """
    values = torch.zeros(len(dataset), dim, device=accelerator.device)
    read = torch.zeros(len(dataset), device=accelerator.device)
    missing: list[MissingVideo] = []
    rank, world_size = accelerator.process_index, accelerator.num_processes
    for found in view_logits(model, dataset, batch_size, workers, rank, world_size):
        values.index_copy_(0, found.index, found.logits.float().mean(1))
        read.index_fill_(0, found.index, 1.0)
        missing += found.missing
    values, read = (accelerator.reduce(each, reduction="sum").cpu() for each in (values, read))
    everywhere = require("accelerate.utils").gather_object(missing)
    return VideoFeatures(values.numpy(), read.numpy() > 0, sorted(everywhere, key=lambda each: each.index))


class EvaluationViews:
    """The views that a training run evaluates its classifier on, and the report of unreadable videos.

    Args:
        dataset: the views.
        batch_size: videos of a forward pass.
        workers: data-loading processes; 0 loads in this process.
    """

    def __init__(self, dataset: ViewDataset, batch_size: int, workers: int) -> None:
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.said: set[int] = set()

    def figures(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """Loss and accuracies on the videos of a process, as `Recipe.evaluate` returns them.

        Logits are averaged over the views of a video. An unreadable video counts nowhere, and is reported once.

        Args:
            model: as `view_logits` takes it.
            rank: as `view_logits` takes it.
            world_size: as `view_logits` takes it.

        Returns:
            For "loss", "top1" and "top5": the sum over the videos and their number, (2,) float64.
        """
        total = torch.zeros(4, dtype=torch.float64, device=next(model.parameters()).device)
        for found in view_logits(model, self.dataset, self.batch_size, self.workers, rank, world_size):
            self._report(found.missing)
            logits = found.logits.float().mean(1)
            place = label_places(logits, found.label)
            loss = F.cross_entropy(logits, found.label, reduction="sum")
            hits = [((place < top) & logits.isfinite().all(1)).sum() for top in (1, TOP)]  # NaN is no hit
            total += torch.stack([loss.double(), *(hit.double() for hit in hits), total.new_tensor(len(place))])
        return {name: torch.stack([total[i], total[3]]) for i, name in enumerate(("loss", "top1", f"top{TOP}"))}

    def _report(self, missing: Sequence[MissingVideo]) -> None:
        for each in missing:
            if each.index not in self.said:
                say(f"unreadable video left out of the evaluation: {printable(each.path)}: {each.reason}")
            self.said.add(each.index)


def view_batches(
    dataset: ViewDataset, batch_size: int, workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[ViewBatch]:
    """The batches of the videos of a process; all processes have equally many.

    Args:
        dataset: the views.
        batch_size: videos of a batch.
        workers: data-loading processes; 0 loads in this process.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.

    Returns:
        The batches, in the order of the videos.

    Raises:
        ChildProcessError: a data-loading process died.
        TimeoutError: one takes too long.
    """
    own = range(rank, len(dataset), world_size)
    num_batches = ceil(ceil(len(dataset) / world_size) / batch_size)
    return load(
        DataLoader(
            _Batches(dataset),
            batch_size=None,
            sampler=[own[first * batch_size :][:batch_size] for first in range(num_batches)],
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_process_group,
            generator=torch.Generator(),  # leaves the generator that training draws from alone
        )
    )


class _Batches(Dataset[ViewBatch]):
    """`dataset[videos]`: the views of some videos; of none, an empty batch."""

    def __init__(self, dataset: ViewDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, videos: Sequence[int]) -> ViewBatch:
        if not videos:
            none = torch.empty(0, dtype=torch.int64)
            return ViewBatch(None, none, none)
        return collate_views([self.dataset[video] for video in videos])


def _as_it_is(item: object) -> object:
    return item


def _black_clip(dataset: ViewDataset, device: torch.device) -> Tensor:
    return torch.zeros(1, 3, dataset.num_frames, *dataset.size, dtype=torch.uint8, device=device)
