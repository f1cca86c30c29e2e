"""The order of training: which (video, sample number) pairs make the batch of a step, on a rank."""

import os
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from .batch import ClipBatch, collate
from .dataset import ClipDataset
from .sources.mixture import Mixture


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields, per step, the `batch_size` pairs (index, sample_number) of this rank.

    The order of an epoch, `mixture.order(seed, epoch)`, has L = `mixture.epoch_length` videos; what is left over after
    `steps_per_epoch = L // (batch_size * world_size)` full steps is dropped, as published. A pair's sample_number is
    epoch * L + its position in the order. Ranks take consecutive slices of the global
    batch, so the same global batch is made however it is split. Starting at `start_step` gives the tail of the
    sequence from 0.

    num_steps: how many steps to yield, counted from `start_step`; None: without end.
    Errors: ValueError if no full step fits in an epoch, or for an argument out of range.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        if batch_size < 1 or world_size < 1:
            raise ValueError(f"batch_size and world_size must be at least 1, got {batch_size} and {world_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        if start_step < 0 or (num_steps is not None and num_steps < 0):
            raise ValueError(f"start_step and num_steps must not be negative, got {start_step} and {num_steps}")
        self.steps_per_epoch = mixture.epoch_length // (batch_size * world_size)
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"a dataset of {mixture.epoch_length} videos does not fill one step of batch_size {batch_size} x "
                f"world_size {world_size} = {batch_size * world_size}"
            )
        self.mixture, self.batch_size, self.seed = mixture, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.start_step, self.num_steps = start_step, num_steps

    def __len__(self) -> int:
        if self.num_steps is None:
            raise TypeError("a StepSampler without num_steps has no length")
        return self.num_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, order_epoch = self.start_step, None
        while self.num_steps is None or step < self.start_step + self.num_steps:
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self.mixture.order(self.seed, epoch), epoch
            first = (step_in_epoch * self.world_size + self.rank) * self.batch_size
            positions = range(first, first + self.batch_size)
            yield [(int(order[position]), epoch * self.mixture.epoch_length + position) for position in positions]
            step += 1


def make_loader(
    dataset: ClipDataset,
    batch_size: int,  # videos per rank and step; a batch has batch_size * dataset.crops_per_video clips
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    timeout: float = 300.0,  # seconds a worker may take for one batch
) -> DataLoader[ClipBatch]:
    """A DataLoader of `ClipBatch` in the order of `StepSampler`, shuffled by the dataset's seed.

    Batches are pinned when CUDA is available. With workers, one that hangs inside native decoder code, where no Python
    exception or signal handler can reach it, ends the loop with DataLoader's RuntimeError after `timeout` seconds.
    Errors: ValueError as `StepSampler`, or if `workers` is negative.
    """
    sampler = StepSampler(dataset.annotations, batch_size, dataset.seed, rank, world_size, start_step, num_steps)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        timeout=timeout if workers > 0 else 0,
        worker_init_fn=_leave_process_group,
    )


def _leave_process_group(worker: int) -> None:
    # A SIGTERM or Ctrl-C for the whole group is the main process's to answer, which saves and ends its workers. One
    # that died first would raise in the middle of a training step. Workers still end when they are told to, or alone.
    if hasattr(os, "setsid"):
        os.setsid()
