"""Per-step losses, left on the device, and timings since the last log line."""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

HIGH_WAIT = 0.2  # share of the time


class Timing:
    """Collects steps without a host sync. `flush` reads them, and hints once in a run if loading is the bottleneck."""

    def __init__(
        self,
        accelerator: Any,
        clips_per_step: int,
        steps_per_epoch: int,
        workers: int,
        cheaper: str,
        cores: int | None = None,
    ) -> None:
        """Start the clock.

        Args:
            accelerator: `accelerate.Accelerator`, for its device and its reductions over ranks.
            clips_per_step: clips of an optimizer step, over all ranks.
            steps_per_epoch: optimizer steps of an epoch.
            workers: data-loading processes of this training process.
            cheaper: the advice on loading a batch at a lower cost; see `Recipe.cheaper`.
            cores: CPU cores of this training process and its workers (default: an equal share of the machine's).
        """
        self.accelerator = accelerator
        self.clips_per_step, self.steps_per_epoch = clips_per_step, steps_per_epoch
        self.workers, self.cheaper, self.cores = workers, cheaper, cores or _cores_of_a_process()
        self.warms_up, self.has_hinted = True, False
        self.restart()

    def restart(self) -> None:
        """Forget the steps and the time since the last log line."""
        self.losses: list[Tensor] = []
        self.numbers: list[Mapping[str, Tensor]] = []
        self.rates: list[float] = []
        self.waits: list[tuple[Any, Any]] = []
        self.loading, self.since = 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in this context as waiting for data, unless the device is still busy.

        On a GPU this is the time between two events in its queue. It is zero while the GPU still runs earlier steps.
        """
        start = self._now()
        yield
        self.waits.append((start, self._now()))

    def _now(self) -> Any:
        if self.accelerator.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, loss: Tensor, lr: float, loading: float, numbers: Mapping[str, Tensor] | None = None) -> None:
        """Count one step.

        Args:
            loss: scalar, on the device.
            lr: learning rate of the step.
            loading: seconds that making the batch took, in a worker or in this process.
            numbers: other scalars of the step, on the device; every step has the same names.
        """
        self.losses.append(loss)
        self.numbers.append(numbers or {})
        self.rates.append(lr)
        self.loading += loading

    def flush(self, step: int) -> tuple[list[dict[str, Any]], str]:
        """Read the steps since the last call. This is a host sync.

        Args:
            step: number of the last step, counted from 1.

        Returns:
            Log rows with the columns `log.COLUMNS` and the steps' numbers, means over ranks; and a hint about what to
            change if data loading is the bottleneck, otherwise empty. A run gives at most one hint, and none in its
            first window, in which the workers start.
        """
        if not self.losses:
            return [], ""
        losses = self._mean(self.losses)
        numbers = {name: self._mean([each[name] for each in self.numbers]) for name in self.numbers[0]}
        elapsed = time.perf_counter() - self.since
        waited = sum(_seconds(start, end) for start, end in self.waits)
        rows = [
            {
                "step": number,
                "epoch": (number - 1) // self.steps_per_epoch,
                "loss": losses[place],
                "lr": self.rates[place],
                "clips_per_second": round(self.clips_per_step * len(losses) / elapsed, 3),
                "data_wait": round(waited / elapsed, 4),
                "peak_memory_mib": round(peak_memory_mib(self.accelerator.device), 1),
                **{name: values[place] for name, values in numbers.items()},
            }
            for place, number in enumerate(range(step - len(losses) + 1, step + 1))
        ]
        hint = self._hint(len(losses), elapsed, waited)
        self.restart()
        return rows, hint

    def _mean(self, values: list[Tensor]) -> list[float]:
        return self.accelerator.reduce(torch.stack(values), reduction="mean").tolist()

    def _hint(self, steps: int, elapsed: float, waited: float) -> str:
        line = ""
        if not self.warms_up and not self.has_hinted:
            line = bottleneck(steps, elapsed, waited, self.loading, self.workers, self.cheaper, self.cores)
        self.warms_up, self.has_hinted = False, self.has_hinted or bool(line)
        return line


def bottleneck(
    steps: int, elapsed: float, waited: float, loading: float, workers: int, cheaper: str, cores: int
) -> str:
    """Say what to change if data loading is the bottleneck of a run.

    Args:
        steps: steps of the window.
        elapsed: seconds of the window.
        waited: seconds of the window in which training only waited for data.
        loading: seconds that making the batches took, summed over all workers.
        workers: data-loading processes.
        cheaper: the advice on loading a batch at a lower cost.
        cores: CPU cores of the workers and the training process.

    Returns:
        One line; empty if less than `HIGH_WAIT` of the time was spent waiting.
    """
    share = waited / elapsed
    if share < HIGH_WAIT:
        return ""
    loads, trains = loading / steps, (elapsed - waited) / steps
    needed = math.ceil(loads / trains)
    found = (
        f"{share:.0%} of the time is waiting for data: a batch takes a worker {loads:.2f} s and the model "
        f"{trains:.2f} s, which {needed} workers would keep up with; there are {workers}, on {cores} cores"
    )
    if needed <= workers:
        return f"{found}. That should do: see what else the cores are busy with"
    if needed <= cores:
        return f"{found}. Use --workers {needed}"
    return f"{found}. {cheaper}"


def _cores_of_a_process() -> int:
    """CPU cores of this machine for each of its training processes."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far, in MiB: the CUDA allocator's on a GPU, the resident memory of this process on a CPU.

    NaN where the system does not tell, as Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
