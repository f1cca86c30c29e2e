"""What every op promises, whatever it computes: registration, compilation, gradients, repeatability."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import videomae_kernels
from tests.kernels.cases import CASES, DIFFERENTIABLE, NOT_OPS, Case
from videomae_kernels.testing import assert_strided_gradients, poison_outputs

every_op = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_differentiable_op = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda case: case.name)
# What PyTorch sees of an op is the same whether the interpreter or a GPU fills its outputs.
as_pytorch_sees_it = pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True
)


class Recorder(TorchDispatchMode):
    """Collects the calls of registered ops, those made by backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "videomae_kernels":
            # Tensors saved for a backward op still ask for gradients, which such an op does not have.
            wants = not func.name().endswith("_backward")
            leaves = tree_map_only(torch.Tensor, lambda a: a.detach().requires_grad_(wants and a.requires_grad), args)
            self.calls.setdefault(func.name(), (func, leaves))
        return func(*args, **(kwargs or {}))


def tensors(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def run(case: Case, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Outputs, then gradients of the inputs that want one for a fixed gradient of the output."""
    outputs = tensors(case.call(*inputs))
    wanted = [x for x in inputs if x.requires_grad]
    if not wanted:
        return list(outputs)
    torch.manual_seed(7)
    gradient = torch.randn(outputs[0].shape).to(outputs[0])  # drawn on the CPU: the same for every device
    return [outputs[0].detach(), *torch.autograd.grad(outputs[0], wanted, gradient)]


def record(case: Case, device: torch.device, grad: bool) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    with Recorder() as recorder:
        run(case, case(device=device, grad=grad))
    return recorder.calls


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
@every_op
@as_pytorch_sees_it
def test_opcheck(case, grad, backend):
    """Schema, fake tensors, autograd registration and AOT dispatch of each registered op that the call makes."""
    if grad and not case.differentiable:
        pytest.skip("has no gradient")
    calls = record(case, backend.device, grad)
    assert calls
    for op, args in calls.values():
        torch.library.opcheck(op, args)


def test_every_registered_op_is_opchecked():
    cpu = torch.device("cpu")
    checked = {name for case in CASES for name in record(case, cpu, grad=case.differentiable)}
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("videomae_kernels::")}
    assert checked == registered


def test_every_public_op_has_a_case():
    assert set(videomae_kernels.__all__) - NOT_OPS <= {case.name for case in CASES}


@every_op
def test_every_element_of_the_output_is_written(case, backend):
    inputs = case(device=backend.device, grad=case.differentiable)
    plain = run(case, inputs)
    with poison_outputs():
        poisoned = run(case, inputs)
    for expected, actual in zip(plain, poisoned, strict=True):
        assert torch.equal(actual, expected)


@every_op
def test_two_runs_agree_bit_by_bit(case, backend):
    inputs = case(device=backend.device, grad=case.differentiable)
    for first, second in zip(run(case, inputs), run(case, inputs), strict=True):
        assert torch.equal(first, second)


@every_op
def test_inputs_are_left_alone(case, backend):
    inputs = case(device=backend.device, grad=case.differentiable)
    before = [x.detach().clone() for x in inputs]
    run(case, inputs)
    assert all(torch.equal(x, y) for x, y in zip(before, inputs, strict=True))


@every_op
def test_batch_of_one(case, backend):
    """Samples do not meet: the first of two is what it is alone (sums over the batch aside)."""
    both = case(device=backend.device)
    alone = tuple(x[:1] if x.ndim and x.shape[0] == 2 else x for x in both)
    for one, two in zip(tensors(case.call(*alone)), tensors(case.call(*both)), strict=True):
        if two.ndim:
            torch.testing.assert_close(one, two[:1])
        else:
            assert one.isfinite()


@every_differentiable_op
def test_expanded_sliced_and_permuted_gradients(case, backend):
    assert_strided_gradients(case.call, case(device=backend.device, grad=True))


@pytest.mark.parametrize("wanted", [0, -1], ids=["first", "last"])
@every_differentiable_op
def test_gradient_of_one_input_alone(case, wanted, backend):
    inputs = case(device=backend.device, grad=True)
    every = [x for x in inputs if x.requires_grad]
    expected = run(case, inputs)[1:][wanted]
    for x in every:
        x.requires_grad_(x is every[wanted])
    assert torch.equal(run(case, inputs)[1], expected)


@every_differentiable_op
def test_a_second_derivative_is_refused_not_wrong(case, backend):
    """Linear ops may have one; where the formula is missing, PyTorch must say so instead of returning zeros."""
    inputs = case(device=backend.device, grad=True)
    wanted = [x for x in inputs if x.requires_grad]
    output = case.call(*inputs)
    (first, *_) = torch.autograd.grad(output.square().sum(), wanted, create_graph=True)
    try:
        second = torch.autograd.grad(first.square().sum(), wanted[0], allow_unused=True)[0]
    except (RuntimeError, NotImplementedError):
        return
    assert second is not None
    assert second.abs().max() > 0


@every_differentiable_op
def test_gradcheck(case):
    inputs = case(batch=1, dtype=torch.float64, grad=True)
    if case.name.startswith("masked_patch_loss"):
        inputs = (inputs[0], inputs[1].detach(), *inputs[2:])
    assert torch.autograd.gradcheck(case.call, inputs, fast_mode=True)


@every_op
@as_pytorch_sees_it
def test_compiles_into_one_graph(case, backend):
    torch._dynamo.reset()
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        inputs = case(batch=batch, device=backend.device, grad=case.differentiable)
        eager = run(case, inputs)
        traced = run(Case(case.name, compiled, case.inputs), inputs)
        for expected, actual in zip(eager, traced, strict=True):
            torch.testing.assert_close(actual, expected)


@every_differentiable_op
def test_under_bfloat16_autocast(case, backend):
    """Autocast may only change what the GEMM of embed_tokens computes in; gradients keep their parameter's dtype."""
    inputs = case(device=backend.device, grad=True)
    plain = run(case, inputs)
    with torch.autocast(backend.device.type, torch.bfloat16):
        cast = run(case, inputs)
    assert cast[0].dtype == (torch.bfloat16 if case.name == "embed_tokens" else plain[0].dtype)
    for expected, actual, x in zip(plain[1:], cast[1:], (x for x in inputs if x.requires_grad), strict=True):
        assert actual.dtype == x.dtype
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max()))
    tolerance = 3e-2 if case.name == "embed_tokens" else 0.0
    torch.testing.assert_close(cast[0].float(), plain[0], rtol=tolerance, atol=tolerance)


@every_op
def test_the_kernel_agrees_with_the_reference(case, backend, monkeypatch):
    if not backend.runs_triton:
        pytest.skip("compares Triton with the reference")
    inputs = case(device=backend.device, grad=case.differentiable)
    triton = run(case, inputs)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    on_cpu = tuple(x.detach().cpu().requires_grad_(x.requires_grad) for x in inputs)
    torch.manual_seed(7)
    for actual, expected in zip(triton, run(case, on_cpu), strict=True):
        if actual.is_floating_point():
            torch.testing.assert_close(actual.cpu(), expected)
        else:
            assert torch.equal(actual.cpu(), expected)
