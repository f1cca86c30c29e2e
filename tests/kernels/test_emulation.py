"""Interpreted and compiled kernels live in one process, and neither disturbs the other (see emulation.py)."""

import os

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("PTX is interpreted where there is no GPU", allow_module_level=True)
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from triton.runtime.interpreter import InterpretedFunction  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from tests.kernels.emulation import compiled, emulated  # noqa: E402
from tests.ptx import Trap  # noqa: E402
from videomae_kernels import tube_mask_index  # noqa: E402
from videomae_kernels.masks.triton import index as kernels  # noqa: E402
from videomae_kernels.tokens import rows  # noqa: E402


def masks() -> torch.Tensor:
    return tube_mask_index(torch.arange(2), (2, 3, 5), 0.6, seed=1)  # sums and scans of Triton's library


def test_interpreter_and_ptx_take_turns(monkeypatch):
    expected = masks()
    for _ in range(2):
        monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")
        assert torch.equal(masks(), expected)
        monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
        for target in ("sm_80", "sm_90"):
            with emulated(target) as launches:
                assert torch.equal(masks(), expected)
            assert [(launch.kernel, launch.target) for launch in launches] == [("_select_index_kernel", target)]
        assert torch.equal(masks(), expected)


def test_what_is_exchanged_comes_back_after_a_trap_too():
    owners = [tl, tl.core, tl.math, tl.core.tensor, tl.core.dtype, kernels]
    before, environment = [dict(vars(owner)) for owner in owners], dict(os.environ)
    with pytest.raises(ZeroDivisionError), emulated("sm_80"):
        assert isinstance(kernels._select_index_kernel, JITFunction)
        assert isinstance(tl.sum, JITFunction)
        raise ZeroDivisionError
    for owner, names in zip(owners, before, strict=True):
        assert {name for name, value in vars(owner).items() if names.get(name) is not value} == set(), owner
    assert dict(os.environ) == environment
    assert isinstance(kernels._select_index_kernel, InterpretedFunction)
    assert isinstance(tl.sum, InterpretedFunction)


def test_counterparts_are_made_once():
    environment = dict(os.environ)
    with compiled():
        first = kernels._select_index_kernel
    with compiled():
        assert kernels._select_index_kernel is first
    assert dict(os.environ) == environment


def test_a_launcher_that_is_given_a_wrong_index_traps():
    """The row that it names lies beyond the storage."""
    index, out = torch.tensor([[0, 2**20]]), torch.empty(1, 2, 8)
    with pytest.raises(Trap, match="lanes out of bounds"), emulated("sm_80"):
        rows._gather_launch(torch.randn(1, 4, 8), index, out)
    with emulated("sm_80"):
        rows._gather_launch(torch.ones(1, 4, 8), index % 4, out)
    assert torch.equal(out, torch.ones(1, 2, 8))
