"""What the steps since the last log line did: losses that are still on the device, and where the time went."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Seconds between two log lines."""

    steps: int
    elapsed: float
    waited: float  # of these, with nothing to do but wait for data
    loading: float  # that making the batches took, in all workers


class Meter:
    """Collects steps without waiting for the device; `flush` reads them."""

    def __init__(self, accelerator: Any, clips_per_step: int, steps_per_epoch: int) -> None:
        self.accelerator = accelerator
        self.clips_per_step, self.steps_per_epoch = clips_per_step, steps_per_epoch
        self.window = Window(0, 0.0, 0.0, 0.0)  # what `flush` looked at last
        self._restart()

    def _restart(self) -> None:
        self.losses: list[Tensor] = []
        self.rates: list[float] = []
        self.waits: list[tuple[Any, Any]] = []
        self.loading, self.since = 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this context counts as waiting for data, unless the device is still busy then.

        On a GPU it is the time between two events in its queue: none while earlier steps are still before them.
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

    def add(self, loss: Tensor, lr: float, loading: float) -> None:
        """Count one step: its scalar loss, its learning rate, and the seconds that making its batch took."""
        self.losses.append(loss)
        self.rates.append(lr)
        self.loading += loading

    def flush(self, step: int) -> list[dict[str, Any]]:
        """Log rows of the steps since the last call, `step` being the last one. Here the host waits for the device."""
        if not self.losses:
            return []
        losses = self.accelerator.reduce(torch.stack(self.losses), reduction="mean").tolist()
        elapsed = time.perf_counter() - self.since
        waited = sum(_seconds(start, end) for start, end in self.waits)
        self.window = Window(len(losses), elapsed, waited, self.loading)
        first = step - len(losses) + 1
        rows = [
            {
                "step": number,
                "epoch": (number - 1) // self.steps_per_epoch,
                "loss": loss,
                "lr": lr,
                "clips_per_second": round(self.clips_per_step * len(losses) / elapsed, 3),
                "data_wait": round(waited / elapsed, 4),
                "peak_memory_mib": round(peak_memory_mib(self.accelerator.device), 1),
            }
            for number, (loss, lr) in enumerate(zip(losses, self.rates, strict=True), first)
        ]
        self._restart()
        return rows


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: of the CUDA allocator on a GPU, resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
