"""Norms, and the addition before them, by every implementation."""

import math
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.test_layers import randomise
from videomae_fast import get_config
from videomae_fast.models import norms
from videomae_fast.models.encoder import make_blocks
from videomae_fast.models.layers import Block
from videomae_fast.models.norms import (
    IMPLEMENTATIONS,
    NORMS,
    RMS_IMPLEMENTATIONS,
    LayerNorm,
    RMSNorm,
    ScaledBranch,
    add_branch,
    add_norm,
    make_norm,
)
from videomae_fast.models.stochastic_depth import BranchDraw


@pytest.mark.parametrize("name", ["layernorm", "rmsnorm"])
def test_norms(name: str) -> None:
    norm = randomise(make_norm(name, 12, 1e-3))
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    if name == "layernorm":
        centred = x - x.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight + norm.bias
    else:
        expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match=r"norm must be one of \('layernorm', 'rmsnorm'\), got 'batchnorm'"):
        make_norm("batchnorm", 12, 1e-6)


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """A stand-in for NVIDIA's Apex; the dtypes of the inputs that came. It returns the dtype of the weight, as Apex."""
    came: list[torch.dtype] = []

    class OfLayerNorm:
        @staticmethod
        def apply(x: Tensor, weight: Tensor, bias: Tensor, shape: torch.Size, eps: float) -> Tensor:
            came.append(x.dtype)
            return F.layer_norm(x.to(weight.dtype), shape, weight, bias, eps)

    class OfRMSNorm:
        @staticmethod
        def apply(x: Tensor, weight: Tensor, shape: torch.Size, eps: float) -> Tensor:
            came.append(x.dtype)
            return F.rms_norm(x.to(weight.dtype), shape, weight, eps)

    module = ModuleType("apex.normalization.fused_layer_norm")
    module.FusedLayerNormAffineMixedDtypesFunction = OfLayerNorm
    module.FusedRMSNormAffineMixedDtypesFunction = OfRMSNorm
    for name in ("apex", "apex.normalization", "fused_layer_norm_cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return came


def written_out(x: Tensor, parameters: list[Tensor], eps: float) -> Tensor:
    """LayerNorm by a weight and a bias, RMSNorm by a weight."""
    return F.layer_norm(x, (12,), *parameters, eps) if len(parameters) == 2 else F.rms_norm(x, (12,), *parameters, eps)


@pytest.mark.parametrize("branch", ["none", "whole", "scaled"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("norm_name", NORMS)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_add_norm(name: str, norm_name: str, autocast: bool, branch: str, apex: list[torch.dtype]) -> None:
    """The sum, its norm in the dtype that the next product reads, all gradients, and the norm made again."""
    torch.manual_seed(0)
    norm = make_norm(norm_name, 12, 1e-3, name).to(torch.float32 if autocast else torch.float64)
    dtype = torch.bfloat16 if autocast else torch.float64
    x, other = (torch.randn(2, 5, 12, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2))
    gamma = torch.randn(12, dtype=norm.weight.dtype, requires_grad=True)
    inputs = {"none": [x], "whole": [x, other], "scaled": [x, other, gamma]}[branch] + list(norm.parameters())
    added = {"none": None, "whole": other, "scaled": ScaledBranch(other, gamma)}[branch]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total, y, source = add_norm(x, added, norm)
    assert total.dtype == y.dtype == dtype and source is not None
    assert torch.equal(source.function(*source.tensors), y)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    factors = exact[1 : len(exact) - len(list(norm.parameters()))]
    expected_total = exact[0] + (math.prod(factors) if factors else 0)
    expected = written_out(expected_total.to(dtype).double(), exact[1 + len(factors) :], 1e-3)
    tolerance = dict(rtol=2e-2, atol=2e-2) if autocast else dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(total.double(), expected_total, **tolerance)
    torch.testing.assert_close(y.double(), expected, **tolerance)
    weight = torch.randn(2, *y.shape, dtype=torch.float64)
    loss, wanted = (weight[0] * total + weight[1] * y).sum(), (weight[0] * expected_total + weight[1] * expected).sum()
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(wanted, exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, **(dict(rtol=5e-2, atol=0.1) if autocast else tolerance))
    assert bool(apex) == (name == "apex") and all(came == dtype for came in apex)


@pytest.mark.parametrize("branch", [False, True])
def test_an_rms_norm_adds_a_scaled_branch_in_its_own_pass(branch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And computes one launch where there is nothing to add; with "torch" and compiled, PyTorch's operations."""
    calls: list[str] = []
    for op in ("rms_norm", "add_rms_norm"):
        real = getattr(norms, op)
        monkeypatch.setattr(norms, op, lambda *args, op=op, real=real: calls.append(op) or real(*args))
    monkeypatch.setitem(norms.RMS_IMPLEMENTATIONS, "triton", norms.rms_norm)
    x, other, gamma = torch.randn(2, 12), torch.randn(2, 12), torch.randn(12)
    for name in ("triton", "torch"):
        add_norm(x, ScaledBranch(other, gamma) if branch else None, make_norm("rmsnorm", 12, 1e-6, name))
    assert calls == ["add_rms_norm" if branch else "rms_norm"]


@pytest.mark.parametrize("ran", ["some", "all", "none"])
@pytest.mark.parametrize("norm_name", [*NORMS, "other"])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_add_norm_of_drawn_samples(name: str, norm_name: str, ran: str, apex: list[torch.dtype]) -> None:
    """A branch of some samples, over the share that is kept; the norm of others; and that norm made again."""
    norm = (nn.LayerNorm(12) if norm_name == "other" else make_norm(norm_name, 12, 1e-3, name)).double()
    index, runs = {"some": [2, 0], "all": [0, 1, 2], "none": [1]}[ran], torch.tensor([1, 2])
    place = torch.tensor([1, 2, 0]) if ran == "some" else torch.tensor([1, 0, 2])
    before = BranchDraw(0.8) if ran == "all" else BranchDraw(0.8, torch.tensor(index), place, none_kept=ran == "none")
    x, gamma = torch.randn(3, 5, 12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    branch = ScaledBranch(torch.randn(len(index), 5, 12, dtype=torch.float64), gamma, before)
    total, y, source = add_norm(x, branch, norm, BranchDraw(0.5, runs, torch.tensor([2, 0, 1])))
    expected = x.clone()
    expected[index] += (0 if ran == "none" else 1.25) * gamma * branch.value
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, norm(expected[runs]), rtol=1e-12, atol=1e-12)
    assert (source is None) == (norm_name == "other")
    assert source is None or torch.equal(source.function(*source.tensors), y)


@pytest.mark.parametrize("ran", ["every sample", "all, scaled", "some"])
def test_a_scaled_branch_is_rounded_once_as_in_the_fused_pass(ran: str) -> None:
    """In bfloat16 with gamma in float32. A drawn branch is multiplied in another order, in float32."""
    torch.manual_seed(0)
    index, place = torch.tensor([2, 0]), torch.tensor([1, 2, 0])
    draw = {"every sample": None, "all, scaled": BranchDraw(0.75), "some": BranchDraw(0.75, index, place)}[ran]
    x, gamma = torch.randn(3, 50, 12).bfloat16(), torch.randn(12)
    branch = ScaledBranch(torch.randn(2 if ran == "some" else 3, 50, 12).bfloat16(), gamma, draw)
    with torch.autocast("cpu", torch.bfloat16):
        fused, *_ = add_norm(x, branch, make_norm("rmsnorm", 12, 1e-6, "triton"))
        apart, *_ = add_norm(x, branch, make_norm("rmsnorm", 12, 1e-6, "torch"))
    assert fused.dtype == apart.dtype == torch.bfloat16
    exact = x.double()
    added = (draw.factor if draw else 1.0) * gamma.double() * branch.value.double()
    exact[index if ran == "some" else slice(None)] += added
    assert torch.equal(apart, add_branch(x, branch))
    for total in (fused, apart):  # half a unit in the last place, and float32's rounding
        torch.testing.assert_close(total.double(), exact, rtol=2**-8, atol=1e-6)
    assert draw is not None or torch.equal(fused, apart)


def test_add_norm_calls_a_norm_of_another_class() -> None:
    norm, x = nn.GroupNorm(3, 12), torch.randn(2, 12)
    total, y, source = add_norm(x, x, norm)
    assert torch.equal(total, 2 * x) and torch.equal(y, norm(2 * x)) and source is None


def test_a_layer_norm_alone_is_pytorchs() -> None:
    norm, x = LayerNorm(12, 1e-6), torch.randn(2, 12)
    assert torch.equal(norm(x), F.layer_norm(x, (12,), norm.weight, norm.bias, 1e-6))


def test_an_rms_norm_alone_is_pytorchs() -> None:
    norm, x = RMSNorm(12, 1e-6), torch.randn(2, 12)
    assert torch.equal(norm(x), F.rms_norm(x, (12,), norm.weight, 1e-6))


def test_every_implementation_has_both_norms() -> None:
    assert IMPLEMENTATIONS.keys() == RMS_IMPLEMENTATIONS.keys()


def test_unknown_or_missing_implementations(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"elementwise must be one of \('triton', 'torch', 'apex'\), got 'fast'"
    with pytest.raises(ValueError, match=message):
        make_blocks(get_config("small", elementwise="fast"), 12, 1, 3)
    monkeypatch.setitem(sys.modules, "fused_layer_norm_cuda", None)
    with pytest.raises(ImportError, match=r"needs NVIDIA's Apex .* on PyPI is another one"):
        LayerNorm(12, 1e-6, "apex")
    with pytest.raises(ValueError, match=message):
        Block(12, 3, 40, norm="rmsnorm", qk_norm=True, elementwise="fast")


def test_the_package_apex_of_pypi_is_refused(apex: list[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the name, and none of the modules."""
    monkeypatch.delitem(sys.modules, "apex.normalization.fused_layer_norm")
    with pytest.raises(ImportError, match="needs NVIDIA's Apex"):
        LayerNorm(12, 1e-6, "apex")
