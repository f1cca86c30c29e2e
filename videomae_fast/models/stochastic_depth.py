"""Stochastic depth that skips the dropped branches.

In training, a residual branch of rate r is dropped for a sample with probability r, and scaled by 1 / (1 − r) where it
is kept. The published code computes every branch and multiplies by 0 or 1 / (1 − r). Here the branch runs on the kept
samples only, with the same result:

    x + branch(x)·keep / (1 − r)   =   x, with branch(x[kept]) / (1 − r) added at `kept`

Draws are a pure function of (seed, step, layer, branch, sample number), so any split of a batch over devices or
micro-batches draws alike. The host makes them, so it knows the shapes without a host sync. The shapes of a compiled or
captured step cannot change, so such a step multiplies by the same draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from videomae_kernels import philox_keys

_STREAM = 3  # Philox stream; masks use the streams 0 to 2
_STEPS, _SAMPLE_BITS = 2**23, 40  # a counter holds (step, sample number): steps repeat their draws after 8 million
_KEY_RANGE = 2**31  # keys are uniform in [0, 2³¹)


@dataclass(frozen=True, eq=False)
class BranchDraw:
    """The samples of a batch that one residual branch runs on, and how to add its result."""

    kept_share: float  # 1 − r: the branch is divided by it
    index: Tensor | None = None  # (kept,) int64 on the device: samples that the branch runs on; None: all
    place: Tensor | None = None  # (B,) int64, with `index`: a sample's number in it, `kept` or more for the others
    keep: Tensor | None = None  # (B, 1, 1) factors 1 or 0 for a branch that ran on all samples
    none_kept: bool = False  # the branch runs on one sample and is scaled by 0, so that its parameters get gradients

    @property
    def factor(self) -> float:
        """What a branch of the selected samples is multiplied by."""
        return 0.0 if self.none_kept else 1 / self.kept_share

    def select(self, x: Tensor) -> Tensor:
        """The samples of x (B, …) that the branch runs on."""
        return x if self.index is None else x.index_select(0, self.index)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """x (B, …) plus the branch of the selected samples: a sum in the wider dtype, rounded to that of x."""
        if self.keep is not None:
            return (x + branch * self.keep / self.kept_share).to(x.dtype)
        if self.index is None:
            return torch.add(x, branch, alpha=self.factor).to(x.dtype)
        if x.dtype.itemsize >= branch.dtype.itemsize:
            return x.index_add(0, self.index, branch.to(x.dtype), alpha=self.factor)
        rows = torch.add(self.select(x), branch, alpha=self.factor)  # these alone in the wider dtype
        return x.index_copy(0, self.index, rows.to(x.dtype))


class _StepDraws:
    """The draws of one step: branch b of sample i is dropped at rate r where keys[b, i] < r·2³¹."""

    def __init__(self, keys: Tensor, skip: bool) -> None:
        self.keys = keys  # (branches, B) int64, on the device of the sample numbers
        self.skip = skip
        if skip:  # counts are read from the host's own memory
            self.host_keys = keys.numpy()
            order = (-self.host_keys).argsort(axis=1, kind="stable")  # kept samples first
            self.order = torch.from_numpy(np.stack((order, order.argsort(axis=1))))  # and where each sample is

    def of(self, branch: int, rate: float, x: Tensor) -> BranchDraw:
        branches, batch = self.keys.shape
        if batch != x.shape[0]:
            raise ValueError(f"stochastic_depth was entered with {batch} sample numbers, the batch has {x.shape[0]}")
        if branch >= branches:
            raise ValueError(f"layer {branch // 2} is beyond stochastic_depth(layers={branches // 2})")
        threshold = round(rate * _KEY_RANGE)
        if torch.compiler.is_compiling() or not self.skip:
            keep = (self.keys[branch] >= threshold).to(x.device, x.dtype, non_blocking=True)
            return BranchDraw(1 - rate, keep=keep.view(-1, 1, 1))
        kept = int((self.host_keys[branch] >= threshold).sum())
        if kept == batch:
            return BranchDraw(1 - rate)
        if self.order.device != x.device:
            self.order = self.order.to(x.device, non_blocking=True)  # one copy per step
        order, place = self.order[:, branch]
        return BranchDraw(1 - rate, index=order[: max(kept, 1)], place=place, none_kept=kept == 0)


_active: _StepDraws | None = None


@contextmanager
def stochastic_depth(
    *, seed: int, step: int | Tensor, sample: Tensor, skip: bool = True, layers: int = 64
) -> Iterator[None]:
    """Draw stochastic depth for the forward passes in this context; backward may run outside.

    Branch b of layer l is dropped for sample s where key(seed, step, s, 2·l + b) < rate·2³¹. The keys come from the
    Philox generator of the masks, in a stream of their own. Outside this context, models in training draw from
    PyTorch's generator and multiply.

    Args:
        seed: seed of the run, in [0, 2⁶³).
        step: step of the run, counted from 0; a 0-dimensional int64 tensor on the device of `sample` if a captured
            step is replayed.
        sample: (B,) int64 sample numbers, below 2⁴⁰, of the clips of the forward pass. With numbers on the host,
            branches skip dropped samples. With numbers on the model's device, branches multiply, as a captured CUDA
            graph must.
        skip: whether branches may skip samples; False always multiplies. Compiled code always multiplies.
        layers: at least the number of blocks of the model.

    Raises:
        TypeError: `sample` is not an int64 vector.
        ValueError: seed or step is out of range; `sample` is on the host while a CUDA graph is captured; the forward
            pass has a batch of another size, or a layer beyond `layers`.

    References:
        Huang et al., "Deep networks with stochastic depth", ECCV 2016.
    """
    global _active
    if sample.ndim != 1 or sample.dtype != torch.int64:
        raise TypeError(f"sample must be an int64 vector of sample numbers, got {sample.dtype} {tuple(sample.shape)}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    if isinstance(step, int) and step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    on_host = sample.device.type == "cpu"
    if on_host and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise ValueError("sample must be on the GPU where a CUDA graph is captured: draws on the host are not replayed")
    counter = sample + ((step % _STEPS) << _SAMPLE_BITS)
    keys = philox_keys(counter, seed, _STREAM, 2 * layers).t().contiguous()
    previous, _active = _active, _StepDraws(keys, skip and on_host)
    try:
        yield
    finally:
        _active = previous


class DropPath(nn.Module):
    """Stochastic depth of one block: draws the samples that its two branches run on."""

    def __init__(self, rate: float, layer: int = 0) -> None:
        super().__init__()
        self.rate = rate
        self.layer = layer

    def forward(self, x: Tensor, branch: int) -> BranchDraw:
        """The draw of branch 0 (attention) or 1 (MLP) for a batch x (B, …) in training."""
        if _active is not None:
            return _active.of(2 * self.layer + branch, self.rate, x)
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return BranchDraw(1 - self.rate, keep=keep)
