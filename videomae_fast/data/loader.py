"""The order of training: which videos make the batch of a step, on each rank."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .batch import ClipBatch, collate
from .dataset import ClipDataset
from .sources.mixture import Mixture


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields for each step the `batch_size` pairs (index, sample_number) of this rank.

    The order of an epoch, `mixture.order(seed, epoch)`, has L = `mixture.epoch_length` videos. It is cut into
    `steps_per_epoch` = L // (batch_size · world_size) steps, and the rest is dropped, as published. A sample number is
    epoch · L + the position in the order. Ranks take consecutive slices of the global batch, so any number of ranks
    makes the same global batches. With `start_step`, the sequence continues as if it had started at 0.

    Args:
        mixture: the videos.
        batch_size: videos per rank and step.
        seed: in [0, 2**64).
        rank: in [0, world_size).
        world_size: number of ranks.
        start_step: the first step to yield.
        num_steps: steps to yield; None: without end.

    Raises:
        ValueError: an epoch has no full step, or an argument is out of range.
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
            epoch, length = step // self.steps_per_epoch, self.mixture.epoch_length
            if epoch != order_epoch:
                order, order_epoch = self.mixture.order(self.seed, epoch), epoch
            numbers = range(self.first_sample(step), self.first_sample(step) + self.batch_size)
            yield [(int(order[number - epoch * length]), number) for number in numbers]
            step += 1

    def first_sample(self, step: int) -> int:
        """The first sample number of this rank's batch; the others follow it.

        Args:
            step: number of the step, at least 0.

        Returns:
            epoch · L + (step_in_epoch · world_size + rank) · batch_size.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return epoch * self.mixture.epoch_length + (step_in_epoch * self.world_size + self.rank) * self.batch_size


def make_loader(
    dataset: ClipDataset,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    timeout: float = 300.0,
) -> DataLoader[ClipBatch]:
    """Make a loader that yields the batches of training in an exactly repeatable order.

    The order depends on the dataset, its seed and the global batch size (batch_size · world_size), not on the number
    of workers or ranks: see `StepSampler`. Batches are in page-locked memory if CUDA is available.

    Args:
        dataset: the clips.
        batch_size: videos per rank and step; a batch has batch_size · dataset.crops_per_video clips.
        rank: of this process, in [0, world_size).
        world_size: number of processes that share a global batch.
        workers: processes that decode; 0 decodes in this one.
        start_step: the first step to yield, for resuming.
        num_steps: steps to yield; None: without end.
        timeout: seconds that a worker may take for one batch. No Python exception or signal handler reaches a worker
            that hangs inside native decoder code; `load` then ends with a TimeoutError.

    Returns:
        A DataLoader of `ClipBatch`.

    Raises:
        ValueError: an epoch has no full step, or an argument is out of range.
    """
    sampler = StepSampler(dataset.annotations, batch_size, dataset.seed, rank, world_size, start_step, num_steps)
    return loader_of(dataset, sampler, collate, workers, timeout)


def loader_of(
    dataset: Dataset[Any],
    sampler: Sampler[Any],
    collate_fn: Callable[[list[Any]], Any],
    workers: int,
    timeout: float,
    start_worker: Callable[[int], None] | None = None,
) -> DataLoader[Any]:
    """Make a loader of training, whichever its data set is.

    Args:
        dataset: the samples.
        sampler: yields for each batch the keys of its samples.
        collate_fn: joins the samples of a batch.
        workers: as in `make_loader`.
        timeout: as in `make_loader`.
        start_worker: called first in each worker with its number; None: `leave_process_group`, which another one calls.

    Returns:
        The loader.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        timeout=timeout if workers > 0 else 0,
        worker_init_fn=start_worker or leave_process_group,
    )


def leave_process_group(worker: int) -> None:
    # The main process answers a SIGTERM or Ctrl-C for the whole group: it saves and then ends its workers. A worker
    # that died first would raise in the middle of a training step. Workers still end when told to, or when orphaned.
    if hasattr(os, "setsid"):
        os.setsid()


def load(loader: DataLoader[Any], defers: bool = False) -> Generator[Any, None, None]:
    """The batches of a loader; a worker that died is an error of the operating system.

    Args:
        loader: the loader.
        defers: whether to learn of a dead worker only when the next batch is asked for. torch learns of it in a signal
            handler, so its error comes between any two instructions of the main process: in the middle of an optimizer
            step, too.

    Returns:
        A generator; closing it ends the workers.

    Raises:
        ChildProcessError: a worker was killed, for example because memory ran out, or crashed.
        TimeoutError: a worker took longer than the loader's time limit.
    """
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed, and a continued run makes one more
        batches = iter(loader)
    watch = _WorkerWatch() if defers and loader.num_workers else None
    try:
        while True:
            try:
                batch = watch.next(batches) if watch else next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise _loading_error(error, loader.timeout) or error from None
            yield batch
    finally:
        if watch:
            watch.close()
        # The traceback of an error keeps the iterator alive, and no public method ends its workers.
        getattr(batches, "_shutdown_workers", lambda: None)()


class _WorkerWatch:
    """Holds back torch's answer to the death of a worker, except in `next`."""

    def __init__(self) -> None:
        self.waiting, self.answer = False, None
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        if callable(handler):  # torch sets one in the main thread
            self.answer = handler
            signal.signal(signal.SIGCHLD, self._on_child)

    def next(self, batches: Iterator[Any]) -> Any:
        self.waiting = True
        try:
            if self.answer is not None:
                self.answer(signal.SIGCHLD, None)  # raises if a worker died since the last batch
            return next(batches)
        finally:
            self.waiting = False

    def _on_child(self, number: int, frame: Any) -> None:
        if self.waiting and self.answer is not None:
            self.answer(number, frame)

    def close(self) -> None:
        if self.answer is not None:
            signal.signal(signal.SIGCHLD, self.answer)


def _loading_error(error: RuntimeError, timeout: float) -> OSError | None:
    """The error of the operating system that torch's error reports; None if it reports another."""
    text = str(error).partition(". ")[0].strip().rstrip(".")
    if text.startswith("DataLoader worker"):
        return ChildProcessError(
            f"a data-loading process died: {text}. If memory ran out, fewer workers or smaller videos need less"
        )
    if text.startswith("DataLoader timed out"):
        return TimeoutError(f"a data-loading process made no batch within {timeout:.0f} s; a video may hang its reader")
    return None
