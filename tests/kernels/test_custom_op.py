"""Registration: what the host does for a call, what is refused, and which derivatives exist."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import videomae_kernels as vk
from tests.kernels.test_errors import good
from tests.kernels.test_import import run
from videomae_kernels.tokens.rows import gather_op

IMPORTED_TWICE = """
import sys
import torch
import videomae_kernels as first
for name in [name for name in sys.modules if name.split(".")[0] == "videomae_kernels"]:
    del sys.modules[name]
try:
    import videomae_kernels
except ImportError as error:
    print(error)
x = torch.arange(6.0).view(1, 3, 2)
assert torch.equal(first.gather_tokens(x, torch.tensor([[2]])), x[:, 2:]), "the ops are no longer the first import's"
"""


def test_a_second_import_under_one_name_is_an_error() -> None:
    assert "the ops of 'videomae_kernels' are registered already" in run(IMPORTED_TWICE)


@pytest.mark.parametrize("device", ["xpu", "mps"])
def test_another_device_is_refused_by_name(device: str) -> None:
    with FakeTensorMode():
        x, index = torch.empty(2, 3, 4, device=device), torch.zeros(2, 1, dtype=torch.int64, device=device)
        with pytest.raises(NotImplementedError, match=f"CPU and CUDA .*'{device}:0'"):
            gather_op._run(x, index)
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(gather_op.name, device.upper())


def test_mixed_devices_are_refused_by_name() -> None:
    with FakeTensorMode():
        x, index = torch.empty(2, 3, 4, device="cuda"), torch.zeros(2, 1, dtype=torch.int64)
        with pytest.raises(ValueError, match="gather_tokens: all tensors must be on one device, got cuda:0 and cpu"):
            gather_op._run(x, index)


@pytest.mark.parametrize(("op", "argument"), [("masked_patch_loss", "pred"), ("tube_mask_gather", "clip")])
def test_a_missing_second_derivative_is_named(op: str, argument: str) -> None:
    function, arguments = good(op)
    leaf = arguments[argument].float().requires_grad_()
    (first,) = torch.autograd.grad(function(**{**arguments, argument: leaf}).square().sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"videomae_kernels::{op}_backward has no derivative"):
        first.square().sum().backward()


def test_a_forward_derivative_is_refused_not_zero() -> None:
    function, arguments = good("gather_tokens")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(arguments["x"], torch.ones_like(arguments["x"]))
        with pytest.raises(NotImplementedError, match="jvp"):
            function(**{**arguments, "x": dual})


def python_calls(function: Callable[[], Any]) -> int:
    """Functions of Python that a call enters, after a first call."""
    function()
    entered = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_a_call_enters_fewer_python_functions_than_one_of_a_custom_op(grad: bool) -> None:
    """Counted, since times are not repeatable: the same implementation registered in the two ways."""
    x, index = torch.randn(2, 6, 4, requires_grad=grad), torch.tensor([[1, 2], [0, 5]])

    def implementation(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return gather_op._run(x, index)

    with torch.library._scoped_library("counted", "FRAGMENT"):
        usual = torch.library.custom_op("counted::gather", implementation, mutates_args=())
        usual.register_autograd(
            lambda ctx, grad: (vk.masked_token_scatter(grad, ctx.saved_tensors[0], 6), None),
            setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
        )
        body = python_calls(lambda: gather_op._run(x.detach(), index))
        ours, theirs = (python_calls(lambda op=op: op(x, index)) - body for op in (gather_op, usual))
    assert 0 < ours <= 0.6 * theirs
