"""Kernel launches and host syncs: predicted from operations, and on a GPU measured."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.harness.counts import Counts, count
from benchmarks.model.steps import Inputs, make_step
from videomae_fast.models import VideoMAEConfig

CPU = torch.device("cpu")
TINY = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)


@pytest.mark.parametrize(
    "sync",
    [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().__setitem__(x > 0, torch.ones((), device=x.device)),
    ],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_syncs_are_noticed(sync: Callable[[Tensor], Any], device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x = torch.tensor([1.0, -1.0, 2.0], device=device)
    assert count(lambda: sync(x), torch.device(device)).syncs >= 1
    assert count(lambda: (x * 2).relu(), torch.device(device)).syncs == 0


def test_launches_are_operations_that_write() -> None:
    x = torch.ones(4, 6)
    assert count(lambda: x.t()[1:].unsqueeze(0), CPU) == Counts(0, 0)
    assert count(lambda: torch.empty_like(x), CPU) == Counts(0, 0)
    assert count(lambda: (x + 1).t().relu_(), CPU) == Counts(2, 0)
    assert count(lambda: x[x > 2], CPU) == Counts(2, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_launches_on_a_gpu() -> None:
    x = torch.ones(4, 6, device="cuda")
    assert count(lambda: (x + 1).relu_(), x.device).kernel_launches == 2


def test_our_step_never_syncs_and_the_published_one_does() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    counts = {}
    for name in ("published", "videomae_fast"):
        step = make_step(name, Inputs(TINY, 2, device))
        step()
        counts[name] = count(step, device)
    assert counts["videomae_fast"].syncs == 0
    assert counts["published"].syncs >= 5  # one per boolean selection: encoder, both positions, labels, weights
    assert counts["videomae_fast"].kernel_launches > 0
