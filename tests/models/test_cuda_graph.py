"""The whole step - masks, forward, backward, optimizer - as one CUDA graph, and what that needs, without a GPU."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness.counts import count
from benchmarks.memory.predictable import PredictableStep, make_predictable
from tests.models.test_whole_step import STEPS, TINY, Batch, assert_same_run, batch, make_loss, run
from videomae_fast import VideoMAEForPretraining
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step


class Operations(TorchDispatchMode):
    """Every operation with the shapes of its results, and how many tensors were made from the host's data."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[Any, ...]]] = []
        self.from_host = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torch.tensor and indexing by a list end here. A tensor of numpy's is no fake tensor, and is an error.
        self.from_host += func is torch.ops.aten.lift_fresh.default
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        if func.namespace not in ("prim", "profiler"):
            self.shapes.append((str(func), tuple(t.shape for t in results if isinstance(t, Tensor))))
        return out


def operations(step: Callable[[], Any]) -> Operations:
    with Operations() as seen:
        step()
    return seen


@pytest.fixture(params=["triton", "torch"])
def step(request: pytest.FixtureRequest) -> Iterator[PredictableStep]:
    """A bfloat16 step on fake CUDA tensors."""
    config = replace(TINY, elementwise=request.param)
    with fake_step(make_predictable("videomae_fast", config, 2, mask_ratio=0.7)) as step:
        yield step


def test_a_step_makes_nothing_from_host_data_and_never_waits(step: PredictableStep) -> None:
    assert operations(step).from_host == 0
    assert count(step, DEVICE).syncs == 0


def test_every_step_is_the_same_operations_on_the_same_shapes(step: PredictableStep) -> None:
    first, second = operations(step), operations(step)
    assert len(first.shapes) > 100 and first.shapes == second.shapes


def test_host_data_would_be_seen(step: PredictableStep) -> None:
    def with_constant() -> None:
        step()
        torch.tensor([1.0, 2.0]) * 2

    assert operations(with_constant).from_host == 1


def assert_replay_equals_eager(batch: Batch, overwrite: Callable[[Any, Any], object]) -> None:
    """A step captured once and replayed on new batches: the losses equal those of eager steps.

    `overwrite(clips, new_clips)` puts a new batch where the captured one lies.
    """
    device = torch.device("cuda")
    model = VideoMAEForPretraining(TINY).to(device)
    twin = copy.deepcopy(model)
    expected = run(make_loss(twin), torch.optim.AdamW(twin.parameters(), lr=1e-3, capturable=True), device, batch)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=True)
    loss = make_loss(model)
    sample, clips = batch(0, device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(sample, clips)
        value.backward()
        optimizer.step()
        return value

    initial = copy.deepcopy(model.state_dict())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles the kernels, makes the optimizer's state
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    model.load_state_dict(initial)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        captured = step()

    losses = []
    for number in range(STEPS):
        new_sample, new_clips = batch(number, device)
        sample.copy_(new_sample)
        overwrite(clips, new_clips)
        graph.replay()
        losses.append(captured.detach().clone())
    assert_same_run(losses, expected, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_step_is_one_cuda_graph() -> None:
    assert_replay_equals_eager(batch, Tensor.copy_)
