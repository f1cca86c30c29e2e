import pytest
import torch
import torch.nn.functional as F

from tests.kernels import truth
from videomae_kernels import bias_gelu
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def make_inputs(device, *shape, dtypes=(torch.float32,) * 2):
    return [(2 * torch.randn(shape, device=device)).to(dtypes[0]), torch.randn(shape[-1], device=device).to(dtypes[1])]


def run(function, inputs, grad):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))]


def compare(inputs, *, ulps=4.0):
    """With F.gelu, computed in float32 and rounded to the dtype of x, and with float64."""
    x = inputs[0]
    grad = torch.randn(x.shape, device=x.device).to(x.dtype)
    actual = run(bias_gelu, inputs, grad)
    plain = run(lambda x, bias: F.gelu(x.float() + bias.float()).to(x.dtype), inputs, grad)
    wanted = run(truth.bias_gelu, [x.double() for x in inputs], grad)
    for ours, theirs, true in zip(actual, plain, wanted, strict=True):
        assert ours.is_contiguous()
        assert_within_error_budget(ours, theirs, true, ulps=ulps)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", FLOATS)
def test_results_and_gradients_in_every_precision(dtype, bias, backend):
    compare(make_inputs(backend.device, 2, 5, 24, dtypes=(dtype, bias)))


@pytest.mark.parametrize("shape", [(9,), (5, 1), (2, 3, 7), (2, 3, 2, 9), (3, 1536), (2, 2240), (65, 1030)])
def test_shapes(shape, backend):
    compare(make_inputs(backend.device, *shape))


def test_more_rows_than_programs_take_at_once(backend, monkeypatch):
    """Each program sums over several blocks of rows, the last of them partly filled."""
    from videomae_kernels import _tiling

    monkeypatch.setitem(_tiling.SUMMING_WARPS, "bias_gelu_backward", 12)
    compare(make_inputs(backend.device, 3, 67, 300), ulps=8)


def test_far_from_zero_it_is_the_identity_or_nothing(backend):
    x = torch.tensor([[-100.0, -10.0, 0.0, 10.0, 100.0]], device=backend.device, requires_grad=True)
    out = bias_gelu(x, torch.zeros(5, device=backend.device))
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out.detach(), F.relu(x.detach()), rtol=0, atol=1e-20)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]], device=backend.device))


def test_the_error_of_float32_is_a_few_roundings_everywhere(backend):
    """Of the result and of the derivative, between −8 and 8. Of the result, PyTorch needs 2.4 eps on a CPU."""
    x = torch.linspace(-8, 8, 4001, device=backend.device)[None].requires_grad_()
    bias = torch.zeros(4001, device=backend.device)
    out = bias_gelu(x, bias)
    exact = x.detach().double().requires_grad_()
    wanted = truth.bias_gelu(exact, bias)
    slopes = [torch.autograd.grad(y.sum(), leaf)[0] for y, leaf in ((out, x), (wanted, exact))]
    eps = torch.finfo(torch.float32).eps
    assert ((out - wanted).abs() <= 3 * eps * x.abs().clamp(min=1)).all()
    assert ((slopes[0] - slopes[1]).abs() <= 3 * eps).all()


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[:, -3:], id="last_rows"),
        pytest.param(lambda x: x[..., 8:], id="sliced_columns"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1), id="expanded_batch"),
        pytest.param(lambda x: x[..., :1].expand(-1, -1, 8), id="expanded_columns"),
        pytest.param(lambda x: x.mT.contiguous().mT, id="columns_outermost"),
    ],
)
def test_any_strides(view, backend):
    x = view(torch.randn(2, 6, 16, device=backend.device))
    bias = torch.randn(2 * x.shape[-1], device=backend.device)[::2]
    assert torch.equal(bias_gelu(x, bias), bias_gelu(x.contiguous(), bias.contiguous()))


def test_gradients_through_views(backend):
    x, bias = (x.requires_grad_() for x in make_inputs(backend.device, 2, 6, 8))
    assert_strided_gradients(bias_gelu, (x, bias))
    assert_strided_gradients(lambda x, bias: bias_gelu(x[:, -2:], bias), (x, bias))


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8), (3, 0)])
def test_nothing_to_do(shape, backend):
    x, bias = (x.requires_grad_() for x in make_inputs(backend.device, *shape))
    out = bias_gelu(x, bias)
    of_x, of_bias = torch.autograd.grad(out.sum(), (x, bias))
    assert out.shape == of_x.shape == shape
    assert not of_bias.any()


def test_a_bias_without_a_gradient_is_not_summed(backend):
    from videomae_kernels.tokens import gelu

    x, bias = make_inputs(backend.device, 2, 5, 24)
    assert gelu._backward_op(torch.ones_like(x), x, bias, False)[1].numel() == 0


def test_float64_on_a_cpu():
    inputs = [x.double() for x in make_inputs("cpu", 3, 4, 10)]
    assert torch.autograd.gradcheck(bias_gelu, [x.requires_grad_() for x in inputs])


def test_backward_keeps_only_the_inputs():
    x, bias = (x.requires_grad_() for x in make_inputs("cpu", 2, 5, 24))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        bias_gelu(x, bias)
    assert {x.data_ptr() for x in kept} == {x.data_ptr(), bias.data_ptr()}
