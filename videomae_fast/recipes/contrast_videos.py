"""The pairs of contrastive pre-training: training batches of videos and of images in turn, and evaluation batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data.captioned import CaptionCounts, CaptionedBatch, CaptionedDataset, CaptionTokenizer, make_captioned_loader
from ..data.captioned.batch import collate_captioned
from .contrast_options import ContrastData, Datasets
from .videos import EvaluationVideos, TrainingVideos


class TrainingPairs(TrainingVideos):
    """The training batches of one rank, the report of unreadable videos, and the counts of captions.

    Args:
        datasets: the videos and the images.
        tokenizer: makes tokens; None where features of captions are kept.
        options: section of the data.
        output: folder of the run.
    """

    def __init__(
        self, datasets: Datasets, tokenizer: CaptionTokenizer | None, options: ContrastData, output: Path
    ) -> None:
        self.datasets, self.tokenizer = datasets, tokenizer
        self.given = [dataset for dataset in datasets if dataset is not None]
        super().__init__(self.given[0], options, output)
        self.counts = CaptionCounts()

    def steps_per_epoch(self, batch_size: int, world_size: int) -> int:
        """Steps of an epoch, each of one kind.

        Args:
            batch_size: pairs of a step on one rank.
            world_size: number of training processes.

        Returns:
            Their number.

        Raises:
            ValueError: the videos or the images do not fill one step.
        """
        loader = self._loader(batch_size, rank=0, world_size=world_size, num_steps=0)
        steps: int = loader.batch_sampler.steps_per_epoch  # type: ignore[union-attr]
        return steps

    def order(self, samples_per_step: int) -> dict[str, object]:
        """All that the order of pairs depends on: their number, those of a step, and the lists."""
        fingerprint = " ".join("-" if each is None else each.annotations.fingerprint() for each in self.datasets)
        return {"pairs": self._num_videos, "pairs_per_step": samples_per_step, "fingerprint": fingerprint}

    def _loader(self, batch_size: int, **place: Any) -> DataLoader[Any]:
        return make_captioned_loader(*self.datasets, batch_size, self.tokenizer, **place)

    @property
    def _num_videos(self) -> int:
        return sum(len(dataset.annotations) for dataset in self.given)

    def count(self, batch: CaptionedBatch) -> None:
        """Count the captions of a batch that the run has trained on."""
        self.counts.add(batch)

    def report(self) -> list[str]:
        """Lines about replaced videos, captions that were cut, and clips that repeat a frame."""
        return super().report() + self.counts.report()


class EvaluationPairs:
    """One clip and one caption of every entry, divided among ranks.

    Args:
        datasets: the videos and the images, without replacements.
        batch_size: pairs of a batch.
        workers: data-loading processes.
        tokenizer: makes tokens; None where features of captions are kept.
    """

    def __init__(self, datasets: Datasets, batch_size: int, workers: int, tokenizer: CaptionTokenizer | None) -> None:
        given = [dataset for dataset in datasets if dataset is not None]
        self._kinds = [_EvaluationKind(dataset, batch_size, workers, tokenizer) for dataset in given]

    def batches(self, rank: int, world_size: int) -> Iterator[tuple[CaptionedBatch, bool]]:
        """The batches of a rank, as `EvaluationVideos.batches`: those of videos, then those of images."""
        for kind in self._kinds:
            for batch, counts in kind.batches(rank, world_size):
                assert isinstance(batch, CaptionedBatch)
                yield batch, counts


class _EvaluationKind(EvaluationVideos):
    def __init__(
        self, dataset: CaptionedDataset, batch_size: int, workers: int, tokenizer: CaptionTokenizer | None
    ) -> None:
        super().__init__(dataset, batch_size, workers)
        self._tokenizer, self._images = tokenizer, dataset.images

    def _join(self, batches: Sequence[Any]) -> CaptionedBatch:
        return collate_captioned(batches, self._tokenizer)

    def _black_clip(self) -> CaptionedBatch:
        black, none = super()._black_clip(), torch.zeros(1, dtype=torch.int64)
        given = {"texts": ("",), "video_id": none, "caption_id": none, "is_image": self._images}
        return self._join([CaptionedBatch(black.clips, black.sample, **given)])  # type: ignore[arg-type]
