"""Chains of InternVideo2's blocks, which hand LayerScale's factor on to the norm that adds the branch."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.models.test_layers import assert_same_gradients, gradients, randomise
from videomae_fast.models.layers import Block
from videomae_fast.models.norms import ScaledBranch, add_branch
from videomae_fast.models.stochastic_depth import stochastic_depth


class Chain(nn.ModuleList):
    """Two blocks of three heads of four."""

    def __init__(self, **options: Any) -> None:
        scaled = dict(norm="rmsnorm", qkv_bias=False, qk_norm=True, layer_scale=0.2)
        super().__init__(Block(12, 3, 40, layer=i, **(scaled | options)) for i in range(2))

    def forward(self, x: Tensor, rows: int | None = None, mean: bool = False) -> Tensor:
        total, branch = self[0](x)
        return add_branch(*self[1](total, branch, rows, mean))


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def written_out(chain: Chain, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """The published blocks; `keep` (4, B) has the factor of each branch and sample."""
    factors = iter(torch.ones(4, len(x), dtype=x.dtype) if keep is None else keep)
    for block in chain:
        q, k, v = (rms(x, block.norm1) @ block.attn.qkv.weight.T).chunk(3, -1)
        q, k = rms(q, block.attn.q_norm), rms(k, block.attn.k_norm)
        q, k, v = (t.unflatten(2, (3, 4)).transpose(1, 2) for t in (q, k, v))
        mixed = ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + next(factors).view(-1, 1, 1) * block.ls1.gamma * block.attn.proj(mixed)
        hidden = F.gelu(block.mlp.fc1(rms(x, block.norm2)))
        x = x + next(factors).view(-1, 1, 1) * block.ls2.gamma * block.mlp.fc2(hidden)
    return x


@pytest.mark.parametrize("rows", [(None, False), (3, False), (3, True)], ids=["all", "last", "mean"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("recompute", ["always", "never"])
@pytest.mark.parametrize("elementwise", ["triton", "torch"])
def test_results_and_every_gradient(
    elementwise: str, recompute: str, checkpointing: bool, rows: tuple[int | None, bool]
) -> None:
    chain = randomise(Chain(elementwise=elementwise, recompute=recompute, activation_checkpointing=checkpointing))
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    last, mean = rows
    expected = written_out(chain, x)[:, -(last or 5) :]
    expected = expected.mean(1, keepdim=True) if mean else expected
    ours = chain(x, last, mean)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    assert_same_gradients(gradients(ours, chain, x, weight), gradients(expected, chain, x, weight))


@pytest.mark.parametrize("rows", [(None, False), (3, False), (3, True)], ids=["all", "last", "mean"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("elementwise", ["triton", "torch"])
def test_stochastic_depth(elementwise: str, skip: bool, checkpointing: bool, rows: tuple[int | None, bool]) -> None:
    """The branch of each kept sample over 1 − r, and none of the others."""
    chain = randomise(Chain(elementwise=elementwise, drop_path=0.5, activation_checkpointing=checkpointing))
    last, mean = rows
    x = torch.randn(4, 5, 12, dtype=torch.float64, requires_grad=True)
    with stochastic_depth(seed=1, step=0, sample=torch.arange(4), skip=False):
        keep = torch.stack([block.drop_path(x, i).keep.flatten() / 0.5 for block in chain for i in range(2)])
    assert 0 < (keep == 0).sum() < keep.numel()
    expected = written_out(chain, x, keep)[:, -(last or 5) :]
    expected = expected.mean(1, keepdim=True) if mean else expected
    with stochastic_depth(seed=1, step=0, sample=torch.arange(4), skip=skip):
        ours = chain(x, last, mean)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    assert_same_gradients(gradients(ours, chain, x, weight), gradients(expected, chain, x, weight))


def draws() -> AbstractContextManager[None]:
    """Of four samples; of every branch some are dropped and some kept."""
    return stochastic_depth(seed=1, step=0, sample=torch.arange(4))


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_autocast_rounds_no_more_than_the_operations_apart(drop_path: float) -> None:
    """On average: a gradient of twelve numbers is near by chance."""
    totals: dict[str, dict[str, float]] = {"torch": {}, "triton": {}}
    for seed in range(6):
        torch.manual_seed(seed)
        for elementwise, errors in _errors_of_autocast(drop_path).items():
            for name, error in errors.items():
                assert error < 0.05, name
                totals[elementwise][name] = totals[elementwise].get(name, 0.0) + error
    for name, error in totals["triton"].items():
        assert error <= 1.5 * totals["torch"][name], name


def _errors_of_autocast(drop_path: float) -> dict[str, dict[str, float]]:
    exact = randomise(Chain(elementwise="torch", drop_path=drop_path))
    x = torch.randn(4, 5, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    with draws():
        wanted = gradients(exact(x), exact, x, weight)
    errors = {}
    for elementwise in ("torch", "triton"):
        chain = Chain(elementwise=elementwise, drop_path=drop_path)
        chain.load_state_dict(exact.state_dict())
        rounded = x.detach().bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), draws():
            y = chain(rounded)
        assert y.dtype == torch.bfloat16
        found = gradients(y, chain, rounded, weight.float())
        errors[elementwise] = {name: float((found[name].double() - t).norm() / t.norm()) for name, t in wanted.items()}
    return errors


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("autocast", [False, True])
def test_recomputation_changes_no_bit_and_keeps_no_norm(autocast: bool, drop_path: float) -> None:
    chain = randomise(Chain(drop_path=drop_path)).float()
    x = torch.randn(4, 5, 12, requires_grad=True)
    x = x.detach().bfloat16().requires_grad_() if autocast else x
    found, kept = [], []
    for recompute in ("always", "never"):
        for block in chain:
            block.recompute = recompute
        storages: dict[int, int] = {}

        def keep(t: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        half = torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), half, draws():
            y = chain(x)
        for parameter in chain.parameters():
            storages.pop(parameter.untyped_storage().data_ptr(), None)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *chain.parameters()])])
        kept.append(sum(storages.values()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    rows = 5 * x.element_size() * (2 if drop_path else 4)  # of each branch some samples are kept
    assert kept[1] - kept[0] >= 2 * rows * (2 * 12 + 40)  # two blocks: two norms' and a GELU's results


def test_layer_scale_returns_the_factors_of_a_branch() -> None:
    x = torch.randn(2, 5, 12)
    _, branch = Chain()[0](x)
    assert isinstance(branch, ScaledBranch) and branch.value.shape == x.shape and branch.scale.shape == (12,)
    _, branch = Chain(layer_scale=None)[0](x)
    assert type(branch) is Tensor


def test_stochastic_depth_returns_the_branch_of_the_kept_samples() -> None:
    x, block = torch.randn(4, 5, 12), Chain(drop_path=0.5)[1]
    with draws():
        total, branch = block(x)
        kept = block.drop_path(x, 1).index
    assert isinstance(branch, ScaledBranch) and 0 < len(kept) < 4
    assert total.shape == x.shape and branch.value.shape == (len(kept), 5, 12)
    with stochastic_depth(seed=1, step=0, sample=torch.arange(4), skip=False):
        assert type(block(x)[1]) is Tensor


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    chain = randomise(Chain())
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    expected, ours = chain(x), torch.compile(chain, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(x)
    assert_same_gradients(gradients(ours, chain, x, weight), gradients(expected, chain, x, weight))


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_blocks_that_fsdp_has_freed(drop_path: float, process_group: None) -> None:
    """The factor of a branch is multiplied in the next block, when its own block has no parameters any more."""
    alone = randomise(Chain(drop_path=drop_path))
    chain = copy.deepcopy(alone)
    mesh = init_device_mesh("cpu", (1,))
    for block in chain:
        fully_shard(block, mesh=mesh)
    fully_shard(chain, mesh=mesh)
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    with draws():
        ours, expected = chain(x), alone(x)
    assert torch.equal(ours, expected)
    for y in (ours, expected):
        y.square().sum().backward()
    for (name, parameter), other in zip(chain.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(parameter.grad.full_tensor(), other.grad), name
