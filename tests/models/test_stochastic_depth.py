"""Stochastic depth drops the right samples, and skipping them changes no result."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.counts import count
from tests.models.test_layers import make_block, randomise, run
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_fast.models import stochastic_depth
from videomae_fast.models.encoder import make_blocks
from videomae_fast.models.layers import Block
from videomae_fast.models.norms import add_branch
from videomae_fast.models.stochastic_depth import BranchDraw, DropPath

TINY = VideoMAEConfig(
    48, 3, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8, drop_path=0.6, mlp_ratio=3.21
)
SAMPLE = torch.tensor([3, 2**33 + 1, 5, 8, 13, 21])


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_drop_path_drops_whole_samples_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = DropPath(rate).train()(x, 0).add(torch.zeros_like(x), x)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, torch.where(kept, 1 / (1 - rate), 0.0)[:, None, None].expand_as(y))
    assert kept.float().mean() == pytest.approx(1 - rate, abs=0.035)  # more than four standard deviations


def test_drop_path_does_nothing_in_evaluation_or_at_rate_0() -> None:
    x = torch.randn(64, 2, 6)
    torch.manual_seed(0)
    dropping = Block(6, 2, 24, drop_path=0.9)
    torch.manual_seed(0)
    plain = Block(6, 2, 24)
    assert plain.drop_path is None
    assert torch.equal(run(dropping.eval(), x), run(plain.eval(), x))
    assert torch.equal(run(plain.train(), x), run(plain.eval(), x))
    assert not torch.equal(run(dropping.train(), x), run(plain, x))


def test_drop_path_rates_rise_linearly() -> None:
    config = VideoMAEConfig(16, 4, 2, 16, 2, drop_path=0.3)
    for depth in (4, 7):
        first, *others = make_blocks(config, 16, depth, 2)
        assert first.drop_path is None
        assert [block.drop_path.rate for block in others] == pytest.approx(
            [0.3 * i / (depth - 1) for i in range(1, depth)]
        )
    assert [block.drop_path for block in make_blocks(config, 16, 1, 2)] == [None]


def test_dropped_branches_leave_the_residual_alone() -> None:
    block = randomise(make_block(4.0, 0.5)).train()
    x = torch.randn(200, 4, 12, dtype=torch.float64)
    for last_rows in (None, 2):
        y = run(block, x, last_rows)
        untouched = (y == x[:, -y.shape[1] :]).flatten(1).all(1).double().mean()
        assert 0.1 < untouched < 0.4  # both branches: 0.25
    assert not (run(block.eval(), x) == x).flatten(1).all(1).any()


def drawn(rate: float, sample: Tensor, *, layer: int = 0, branch: int = 0, seed: int = 1, step: int = 0) -> Tensor:
    """(B,) bool: for which samples a branch is kept."""
    x = torch.zeros(len(sample), 1, 1)
    with stochastic_depth(seed=seed, step=step, sample=sample):
        draw = DropPath(rate, layer).train()(x, branch)
    return draw.add(x, draw.select(x + 1)).flatten() != 0


def loss_and_gradients(model: VideoMAEForPretraining, sample: Tensor, step: int = 0, skip: bool = True) -> list[Tensor]:
    torch.manual_seed(5)
    clip = torch.randn(len(sample), 3, 8, 32, 32, dtype=torch.float64)
    plan = make_masks(sample, TINY.grid, mask_ratio=0.7)
    with stochastic_depth(seed=1, step=step, sample=sample, skip=skip):
        loss = model(clip, plan)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@contextmanager
def recorded() -> Iterator[list[BranchDraw]]:
    """The draws of all branches within."""
    draws: list[BranchDraw] = []
    forward = DropPath.forward

    def record(self: DropPath, x: Tensor, branch: int) -> BranchDraw:
        draws.append(forward(self, x, branch))
        return draws[-1]

    with mock.patch.object(DropPath, "forward", record):
        yield draws


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 6])
def test_skipping_is_multiplying(samples: int, checkpointing: bool) -> None:
    """The same loss and gradients, to float64 rounding; also where no sample of a batch is kept, and where all are."""
    model = randomise(VideoMAEForPretraining(replace(TINY, activation_checkpointing=checkpointing))).train()
    seen: set[str] = set()
    for step in range(3):
        with recorded() as draws:
            ours = loss_and_gradients(model, SAMPLE[:samples], step)
        assert all(draw.keep is None for draw in draws)
        seen |= {"none" if d.none_kept else "all" if d.index is None else "some" for d in draws if d.kept_share < 1}
        with recorded() as draws:
            expected = loss_and_gradients(model, SAMPLE[:samples], step, skip=False)
        assert all(draw.keep is not None for draw in draws if draw.kept_share < 1)
        for actual, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-13)
    assert "some" in seen if samples > 1 else seen == {"none", "all"}


@pytest.mark.parametrize("samples", [1, 6])
def test_listed_rows_are_those_of_the_samples_that_are_kept(samples: int) -> None:
    """And so are their gradients: as those rows of a block that computes all."""
    block = randomise(make_block(4.0, 0.5)).train()
    x = torch.randn(samples, 5, 12, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[4, 0], [1, 3], [2, 2], [0, 1], [3, 4], [1, 0]])[:samples]
    for step in range(3):
        with stochastic_depth(seed=1, step=step, sample=SAMPLE[:samples]):
            ours, whole = run(block, x, rows), run(block, x)
        expected = whole.gather(1, rows[..., None].expand(-1, -1, 12))
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        weight, leaves = torch.randn_like(ours), [x, *block.parameters()]
        pairs = (torch.autograd.grad(y, leaves, weight) for y in (ours, expected))
        for actual, wanted in zip(*pairs, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("elementwise", ["triton", "torch"])
def test_the_next_norm_adds_the_kept_samples_and_chooses_those_of_the_next_branch(elementwise: str) -> None:
    """Only the first norm of a model has nothing to add, and only after the last block nothing is normalised."""
    blocks = [Block(12, 3, 48, drop_path=0.5, layer=layer, elementwise=elementwise).train() for layer in (1, 2, 3)]
    with TorchOps() as ops, stochastic_depth(seed=1, step=2, sample=SAMPLE):
        x, branch = torch.randn(6, 5, 12, requires_grad=True), None
        for block in blocks:
            x, branch = block(x, branch)
        add_branch(x, branch).sum().backward()
    fused = elementwise == "triton"
    assert ops.calls["add_drawn_norm"] == ops.calls["add_drawn_norm_backward"] == 5 * fused
    for name in ("index_select", "index_add"):  # each is the other's gradient
        assert ops.calls[name] == (2 if fused else 12)


class TorchOps(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name.split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


def test_dropped_samples_cost_nothing() -> None:
    """FLOPs of the branches fall by the share of dropped samples; the other FLOPs stay."""
    block = make_block(4.0, 0.5).train()
    x = torch.randn(6, 5, 12, requires_grad=True)

    def flops(skip: bool) -> tuple[int, list[int]]:
        with FlopCounterMode(display=False) as counter, recorded() as draws:
            with stochastic_depth(seed=1, step=2, sample=SAMPLE, skip=skip):
                out = run(block, x)
            out.sum().backward()
        return counter.get_total_flops(), [6 if draw.index is None else len(draw.index) for draw in draws]

    whole, _ = flops(skip=False)
    ours, (attended, perceived) = flops(skip=True)
    assert 0 < attended < 6 and 0 < perceived < 6 and attended != perceived
    per_row = 3 * 2 * 12 * 12  # forward and both gradients of one (12, 12) matrix; attention has 4, the MLP 8
    assert ours == per_row * 5 * (4 * attended + 8 * perceived)
    assert whole == per_row * 5 * 12 * 6


def test_no_host_sync() -> None:
    model = VideoMAEForPretraining(TINY).double()
    assert count(lambda: loss_and_gradients(model, SAMPLE), torch.device("cpu")).syncs == 0


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_the_mean_is_kept(rate: float) -> None:
    kept = drawn(rate, torch.arange(4000)).double()
    assert kept.mean() == pytest.approx(1 - rate, abs=0.035)  # more than four standard deviations
    x = torch.randn(4000, 2, 3, dtype=torch.float64)
    with stochastic_depth(seed=1, step=0, sample=torch.arange(4000)):
        draw = DropPath(rate).train()(x, 0)
    torch.testing.assert_close(draw.add(0 * x, draw.select(x)), x * kept.view(-1, 1, 1) / (1 - rate))


def test_draws_are_a_pure_function_of_seed_step_layer_branch_and_sample() -> None:
    sample = torch.arange(300) * 7919 + 2**33
    whole = drawn(0.5, sample)
    for part in (torch.arange(4), torch.tensor([299, 3, 3, 17]), torch.arange(299, -1, -1)):
        assert torch.equal(drawn(0.5, sample[part]), whole[part])
    others = [dict(layer=1), dict(branch=1), dict(seed=2), dict(step=1), dict(step=2**22)]
    drawings = [whole, *(drawn(0.5, sample, **other) for other in others), drawn(0.5, sample + 1)]
    for number, first in enumerate(drawings):
        for second in drawings[:number]:
            assert 0.35 < (first == second).double().mean() < 0.65  # five standard deviations


def test_a_higher_rate_drops_more_of_the_same() -> None:
    low, high = drawn(0.2, torch.arange(500)), drawn(0.6, torch.arange(500))
    assert (low | ~high).all() and low.sum() > high.sum()


def test_a_step_on_the_device_draws_the_same() -> None:
    model = randomise(VideoMAEForPretraining(TINY))
    for step in (0, 7):
        results = [loss_and_gradients(model, SAMPLE, s, skip=False) for s in (step, torch.tensor(step))]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_compiled_steps_multiply_by_the_same_draws() -> None:
    """One graph for all steps."""
    torch.compiler.reset()
    model = randomise(VideoMAEForPretraining(TINY))
    expected = [loss_and_gradients(model, SAMPLE, step, skip=False) for step in range(3)]
    assert len({float(loss) for loss, *_ in expected}) == 3
    model.compile(fullgraph=True, backend="aot_eager")
    for step in range(3):
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            ours = loss_and_gradients(model, SAMPLE, step)
        for actual, wanted in zip(ours, expected[step], strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-13)


def test_evaluation_and_rate_0_ignore_it() -> None:
    model = randomise(VideoMAEForPretraining(TINY))
    still = VideoMAEForPretraining(replace(TINY, drop_path=0.0)).double()
    still.load_state_dict(model.state_dict())
    expected = loss_and_gradients(still, SAMPLE)
    assert all(torch.equal(a, b) for a, b in zip(loss_and_gradients(model.eval(), SAMPLE), expected, strict=True))


def test_blocks_are_numbered_through_the_model() -> None:
    model = VideoMAEForPretraining(TINY)
    blocks = [*model.encoder.blocks, *model.decoder.blocks]
    layers = [block.drop_path and block.drop_path.layer for block in blocks]
    assert layers == [None, 1, 2, None, 4]  # the first of each part never drops


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(sample=SAMPLE.int()), TypeError, "sample must be an int64 vector"),
        (dict(sample=SAMPLE[:2]), ValueError, "entered with 2 sample numbers, the batch has 6"),
        (dict(layers=2), ValueError, r"layer 2 is beyond stochastic_depth\(layers=2\)"),
        (dict(seed=-1), ValueError, r"seed must be in \[0, 2\*\*63\), got -1"),
        (dict(step=-1), ValueError, "step must not be negative, got -1"),
    ],
    ids=str,
)
def test_errors(change: dict[str, object], error: type[Exception], message: str) -> None:
    model = VideoMAEForPretraining(TINY)
    plan = make_masks(SAMPLE, TINY.grid, mask_ratio=0.7)
    with pytest.raises(error, match=message), stochastic_depth(**{"seed": 0, "step": 0, "sample": SAMPLE, **change}):
        model(torch.zeros(6, 3, 8, 32, 32), plan)
    with stochastic_depth(seed=0, step=0, sample=SAMPLE):  # what failed before has left nothing behind
        model(torch.zeros(6, 3, 8, 32, 32), plan)
    model(torch.zeros(2, 3, 8, 32, 32), make_masks(SAMPLE[:2], TINY.grid, mask_ratio=0.7))
