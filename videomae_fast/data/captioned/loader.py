"""The order of training on captions: batches of videos and batches of images, in turn."""

import os
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset, Sampler

from ..loader import StepSampler, leave_process_group, loader_of
from .batch import CaptionedBatch, collate_captioned
from .dataset import CaptionedDataset
from .tokenizer import CaptionTokenizer

FIRST_IMAGE = 2**48  # sample number of the first image, so that no image shares its draws and its mask with a video


class AlternatingSampler(Sampler[list[tuple[int, int]]]):
    """Yields for each step the pairs (index, sample_number) of this rank, of videos or of images.

    An epoch has V steps of videos and I steps of images, as `StepSampler` counts them: the weights of the sources
    decide. Step t of an epoch is one of images if ⌊(t + 1) · I / (V + I)⌋ > ⌊t · I / (V + I)⌋, so that the two are
    mixed as evenly as they can be. Every rank has the same kind in the same step, and with `start_step` the sequence
    continues as if it had started at 0. Images have sample numbers from `FIRST_IMAGE` on.

    Args:
        videos: steps of videos, without `start_step` and `num_steps`; None: there are none.
        images: steps of images, likewise.
        start_step: the first step to yield.
        num_steps: steps to yield; None: without end.

    Attributes:
        steps_per_epoch: V + I.

    Raises:
        ValueError: there are neither videos nor images, or an argument is out of range.
    """

    def __init__(
        self, videos: StepSampler | None, images: StepSampler | None, start_step: int = 0, num_steps: int | None = None
    ) -> None:
        if videos is None and images is None:
            raise ValueError("there must be videos or images, got neither")
        if start_step < 0 or (num_steps is not None and num_steps < 0):
            raise ValueError(f"start_step and num_steps must not be negative, got {start_step} and {num_steps}")
        self._samplers = (videos, images)
        self._images = 0 if images is None else images.steps_per_epoch
        self.steps_per_epoch = self._images + (0 if videos is None else videos.steps_per_epoch)
        self.start_step, self.num_steps = start_step, num_steps

    def __len__(self) -> int:
        if self.num_steps is None:
            raise TypeError("an AlternatingSampler without num_steps has no length")
        return self.num_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        done = self.images_before(step)
        kinds = [self._from(0, step - done), self._from(1, done)]
        while self.num_steps is None or step < self.start_step + self.num_steps:
            yield next(kinds[self.is_image(step)])
            step += 1

    def _from(self, kind: int, step: int) -> Iterator[list[tuple[int, int]]]:
        sampler = self._samplers[kind]
        if sampler is None:
            return
        whole = (sampler.mixture, sampler.batch_size, sampler.seed, sampler.rank, sampler.world_size)
        for pairs in StepSampler(*whole, start_step=step):
            yield [(index, number + kind * FIRST_IMAGE) for index, number in pairs]

    def images_before(self, step: int) -> int:
        """How many steps before a step are of images.

        Args:
            step: number of the step, at least 0.

        Returns:
            I for each whole epoch, and ⌊t · I / (V + I)⌋ for step t of the last one.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return epoch * self._images + step_in_epoch * self._images // self.steps_per_epoch

    def is_image(self, step: int) -> bool:
        """Whether the batch of a step is of images.

        Args:
            step: number of the step, at least 0.

        Returns:
            Whether it is.
        """
        return self.images_before(step + 1) > self.images_before(step)


class _BothKinds(Dataset[CaptionedBatch]):
    def __init__(self, videos: CaptionedDataset | None, images: CaptionedDataset | None) -> None:
        self._datasets = (videos, images)

    def __getitem__(self, key: tuple[int, int]) -> CaptionedBatch:
        dataset = self._datasets[key[1] >= FIRST_IMAGE]
        assert dataset is not None
        return dataset[key]


class _Collate:
    def __init__(self, tokenizer: CaptionTokenizer | None) -> None:
        self._tokenizer = tokenizer

    def __call__(self, batches: Sequence[CaptionedBatch]) -> CaptionedBatch:
        return collate_captioned(batches, self._tokenizer)


def make_captioned_loader(
    videos: CaptionedDataset | None,
    images: CaptionedDataset | None,
    batch_size: int,
    tokenizer: CaptionTokenizer | None = None,
    *,
    image_batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    timeout: float = 300.0,
) -> DataLoader[CaptionedBatch]:
    """Make a loader that yields batches of videos and batches of images in an exactly repeatable order.

    The order depends on the data sets, their seeds and the global batch sizes, not on the number of workers or ranks:
    see `AlternatingSampler`.

    Args:
        videos: the videos; None: images only.
        images: the images; None: videos only.
        batch_size: videos per rank and step.
        tokenizer: makes the tokens in the workers; None: the batches have texts only.
        image_batch_size: images per rank and step; None: as `batch_size`.
        rank: of this process, in [0, world_size).
        world_size: number of processes that share a global batch.
        workers: processes that decode; 0 decodes in this one.
        start_step: the first step to yield, for resuming.
        num_steps: steps to yield; None: without end.
        timeout: as in `make_loader`.

    Returns:
        A DataLoader of `CaptionedBatch`.

    Raises:
        ValueError: there are neither videos nor images, one of them has no full step in an epoch, they are in each
            other's place, or an argument is out of range.
    """
    for name, dataset, is_image in (("videos", videos, False), ("images", images, True)):
        if dataset is not None and dataset.images != is_image:
            raise ValueError(f"{name} must be {name}, got the other kind")
    sizes = (batch_size, batch_size if image_batch_size is None else image_batch_size)
    steps = [
        None if dataset is None else StepSampler(dataset.annotations, size, dataset.seed, rank, world_size)
        for dataset, size in zip((videos, images), sizes, strict=True)
    ]
    sampler = AlternatingSampler(steps[0], steps[1], start_step, num_steps)
    return loader_of(_BothKinds(videos, images), sampler, _Collate(tokenizer), workers, timeout, _start_worker)


def _start_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker is one process of many; each would take all cores
    leave_process_group(worker)
