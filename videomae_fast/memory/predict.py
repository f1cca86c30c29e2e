"""What a training step would take on a GPU, predicted without one: peak memory, and the largest batch that fits.

The step runs on fake tensors (`fake_cuda`) and every storage is counted (`MemoryProfile`): a few seconds, no data, the
same bytes every time. Every figure from here is a prediction, and is to be called one. What it cannot know:
* workspaces within one operation: flash attention's float32 gradient of the queries, cuBLAS (32 MiB on Hopper),
  cuDNN, sorts; the CUDA context, which is outside the allocator's figures anyway;
* fragmentation and segment sizes: the prediction is of `torch.cuda.max_memory_allocated`, not of memory reserved;
* compiled code, whose fusions and buffers do not exist before it is compiled: it cannot be predicted here;
* an optimizer on CPU tensors loops over parameters where CUDA's default is `foreach`: say `fused` or `foreach`.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

import torch
from torch import Tensor, nn

from .fake_cuda import ZeroValues, fake_cuda, to_host
from .profile import MemoryProfile


class Step(Protocol):
    """A training step: calling it makes one, from zero_grad to the optimizer's step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __call__(self) -> Any: ...


# Assumptions, not measurements: the capacity is about what PyTorch reports as a card's total memory, in GiB. The
# allowance is for what is not predicted: a CUDA context of about 0.5 GiB, the rest for workspaces and fragmentation.
CAPACITY_GIB = {"A100-40": 39.4, "A100-80": 79.1, "H100-80": 79.1, "H200": 139.7}
ALLOWANCE_GIB = 2.0
CARDS = {name: int((capacity - ALLOWANCE_GIB) * 2**30) for name, capacity in CAPACITY_GIB.items()}  # usable bytes


@contextmanager
def fake_step(make: Callable[[], Step]) -> Iterator[Step]:
    """A step on fake tensors that has run once, so that optimizer state exists: what `predict_step` profiles.

    `make` builds it from tensors made on the device "cpu" (weights may be initialised) and declares boolean masks that
    index with `known_true`. A tensor that is a plain attribute of a module, which `Module.to` leaves where it is, is in
    host memory. ValueError for a mask whose count was not declared.
    """
    gc.collect()  # garbage of earlier steps must not be freed in the middle of this one
    with fake_cuda() as fake:
        fake.allow_non_fake_inputs = True  # constants from numpy and lists
        with ZeroValues(), mock.patch.object(nn.Module, "to", _stay):
            step = make()
        _leave_on_host(step.model)
        fake.allow_non_fake_inputs = False
        step()
        yield step


def predict_step(make: Callable[[], Step]) -> MemoryProfile:
    """The memory of a step as it would be on a GPU; see `fake_step` for `make`."""
    with fake_step(make) as step, MemoryProfile(step.model, step.optimizer) as profile:
        step()
    return profile


def _stay(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Module.to for a fake model, which is on the device already. PyTorch's own often fails on fake parameters."""
    _, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    if dtype is not None:
        raise NotImplementedError(f"a fake model cannot be cast to {dtype}: build it under torch.set_default_dtype")
    return model


def _leave_on_host(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, to_host(value))


def largest_batch(peak_bytes: Callable[[int], int], usable: int) -> int:
    """The largest batch whose peak is at most `usable` bytes (one of `CARDS`), 0 if none is.

    `peak_bytes` maps a batch size to its predicted peak. That is nearly affine, so a line through two predictions
    proposes the answer, which is returned only once it is itself predicted to fit and the next batch is not.
    """
    peaks = {batch: peak_bytes(batch) for batch in (64, 128)}
    crawls = False  # the last guess was next to what is known, and was not the answer
    while True:
        fits = max((batch for batch, peak in peaks.items() if peak <= usable), default=0)
        fails = min((batch for batch, peak in peaks.items() if peak > usable), default=None)
        if fails == fits + 1:
            return fits
        known = sorted(peaks)
        position = len(known) if fails is None else known.index(fails)
        low, high = known[min(max(position - 1, 0), len(known) - 2) :][:2]
        rise = peaks[high] - peaks[low]
        guess = low + (usable - peaks[low]) * (high - low) // rise if rise > 0 else 2 * high
        batch = max(guess, fits + 1)
        if fails is not None:
            batch = (fits + fails) // 2 if crawls else min(batch, fails - 1)
        crawls = batch == fits + 1 or (fails is not None and batch == fails - 1)
        peaks[batch] = peak_bytes(batch)


def measure_step(step: Step, device: torch.device) -> int:
    """Peak bytes of a step on a GPU, by its allocator: what `predict_step` predicts. The first step is not counted."""
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)
