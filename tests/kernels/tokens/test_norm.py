import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.kernels import truth
from videomae_kernels import add_layer_norm, layer_norm
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6
WIDTHS = (1, 7, 384, 768, 1000, 1408, 2048, 4096)


def make_inputs(device, *shape, dtypes=(torch.float32,) * 3):
    """x and branch of `shape`, weight and bias of its last size; dtypes of x, of branch, and of both parameters."""
    rows = [(3 * torch.randn(shape, device=device) + 1).to(dtype) for dtype in dtypes[:2]]
    parameters = [torch.randn(shape[-1], device=device).to(dtypes[2]) for _ in range(2)]
    return [*rows, *parameters]


def plain(x, branch, weight, bias, dtype):
    """What the published code computes, under autocast: float32 statistics, every result rounded on its own."""
    total = (x + branch).to(x.dtype)
    y = F.layer_norm(total.float(), total.shape[-1:], weight.float(), bias.float(), EPS)
    return total, y.to(dtype)


def exact(x, branch, weight, bias, dtype):
    """Float64, from the sum as it is rounded."""
    total = x.double() + branch.double()
    total = total + ((x + branch).to(x.dtype).double() - total).detach()
    return total, truth.layer_norm(total, weight, bias, EPS)


def fused(x, branch, weight, bias, dtype):
    return add_layer_norm(x, branch, weight, bias, EPS, dtype)


def run(function, inputs, dtype, grads):
    """Both results, then all gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*leaves, dtype)
    grads = [g.to(output.dtype) for g, output in zip(grads, outputs, strict=True)]
    return [*(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, grads)]


def compare(inputs, dtype, *, ulps=1.0):
    shape = inputs[0].shape
    grads = [torch.randn(shape, device=inputs[0].device).to(d) for d in (inputs[0].dtype, dtype)]
    actual, theirs = run(fused, inputs, dtype, grads), run(plain, inputs, dtype, grads)
    wanted = run(exact, [x.double() if i > 1 else x for i, x in enumerate(inputs)], dtype, grads)
    for ours, other, true in zip(actual, theirs, wanted, strict=True):
        assert ours.is_contiguous()
        assert_within_error_budget(ours, other, true.double(), ulps=ulps)


@pytest.mark.parametrize("dtypes", list(itertools.product(FLOATS, FLOATS, FLOATS)))
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_results_and_gradients_in_every_precision(dtypes, parameters, backend):
    x, branch, y = dtypes
    compare(make_inputs(backend.device, 2, 5, 24, dtypes=(x, branch, parameters)), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width, dtype, backend):
    compare(make_inputs(backend.device, 3, 2, width, dtypes=(dtype, dtype, torch.float32)), dtype, ulps=4)


@pytest.mark.parametrize("shape", [(9,), (5, 9), (2, 3, 9), (2, 3, 2, 9), (1, 1, 9)])
def test_any_number_of_dimensions(shape, backend):
    compare(make_inputs(backend.device, *shape), torch.float32, ulps=4)


def test_more_rows_than_programs_take_at_once(backend, monkeypatch):
    """Each program sums over several blocks of rows, the last of them partly filled."""
    from videomae_kernels import _tiling

    monkeypatch.setitem(_tiling.SUMMING_WARPS, "layer_norm_backward", 3)
    compare(make_inputs(backend.device, 3, 67, 300), torch.float32, ulps=4)


def test_sums_are_the_same_however_rows_are_batched(backend):
    """Programs are as many for any batch that has enough rows, and take their rows in turn."""
    x, _, weight, bias = make_inputs(backend.device, 4, 6, 16)
    weight.requires_grad_()
    grads = [
        torch.autograd.grad(layer_norm(rows, weight, bias), weight, torch.ones_like(rows))[0]
        for rows in (x, x.view(2, 12, 16), x.flatten(0, 1))
    ]
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("result", FLOATS)
def test_the_norm_alone_is_the_norm_of_the_sum_bit_by_bit(dtype, result, backend):
    """So that backward can normalise the sum again instead of keeping the normalised rows.

    Rows in a wider dtype than their sum may be added up in another order: a thread then takes other columns.
    """
    x, branch, weight, bias = make_inputs(backend.device, 2, 5, 40, dtypes=(dtype, torch.bfloat16, torch.float32))
    total, y = add_layer_norm(x, branch, weight, bias, EPS, result)
    again = layer_norm(total, weight, bias, EPS, result)
    if dtype.itemsize >= result.itemsize:
        assert torch.equal(again, y)
    torch.testing.assert_close(again, y)
    assert torch.equal(total, (x + branch).to(dtype))


def test_results_have_the_dtype_of_x_unless_told(backend):
    x, branch, weight, bias = make_inputs(backend.device, 2, 4, dtypes=(torch.bfloat16, *(torch.float32,) * 2))
    assert [out.dtype for out in add_layer_norm(x, branch, weight, bias)] == [torch.bfloat16] * 2
    assert layer_norm(x, weight, bias).dtype == torch.bfloat16
    assert layer_norm(x, weight, bias, dtype=torch.float32).dtype == torch.float32


def test_constant_rows_are_the_bias(backend):
    weight, bias = torch.randn(2, 12, device=backend.device)
    y = layer_norm(torch.full((3, 12), 7.0, device=backend.device), weight, bias, EPS)
    torch.testing.assert_close(y, bias.expand(3, -1), rtol=0, atol=1e-6)


def test_a_large_mean_costs_no_precision(backend):
    """The variance is that of centred values: E[x²] − E[x]² would leave nothing of it here."""
    x, _, weight, bias = make_inputs(backend.device, 4, 64)
    x = x / 100 + 300
    wanted = truth.layer_norm(x, weight, bias, EPS)
    assert_within_error_budget(
        layer_norm(x, weight, bias, EPS), F.layer_norm(x, (64,), weight, bias, EPS), wanted, ulps=256
    )


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[:, -3:], id="last_rows"),
        pytest.param(lambda x: x[..., 8:], id="sliced_columns"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1), id="expanded_batch"),
        pytest.param(lambda x: x[:, :1].expand(-1, 6, -1), id="expanded_rows"),
        pytest.param(lambda x: x[..., :1].expand(-1, -1, 8), id="expanded_columns"),
        pytest.param(lambda x: x.mT.contiguous().mT, id="columns_outermost"),
        pytest.param(lambda x: x.flip(0)[:, ::2], id="every_other"),
    ],
)
def test_any_strides(view, backend):
    x = torch.randn(2, 6, 16, device=backend.device)
    other, x = view(torch.randn_like(x)), view(x)
    weight, bias = torch.randn(2, 2 * x.shape[-1], device=backend.device)[:, ::2]
    for function in (
        lambda x, other, *parameters: torch.cat(add_layer_norm(x, other, *parameters), -1),
        lambda x, other, *parameters: layer_norm(x, *parameters),
    ):
        strided = function(x, other, weight, bias)
        assert torch.equal(strided, function(*(t.contiguous() for t in (x, other, weight, bias))))


@pytest.mark.parametrize("result", [0, 1], ids=["sum", "normalised"])
def test_gradients_of_one_result_alone(result, backend):
    """A gradient that is missing counts as zero, and makes no difference to the others."""
    inputs = make_inputs(backend.device, 2, 5, 24)
    leaves = [x.requires_grad_() for x in inputs]
    outputs = add_layer_norm(*leaves, EPS)
    grad = torch.randn_like(outputs[result])
    alone = torch.autograd.grad(outputs[result], leaves, grad, retain_graph=True, allow_unused=True)
    grads = [grad if i == result else torch.zeros_like(grad) for i in range(2)]
    both = torch.autograd.grad(outputs, leaves, grads)
    for ours, wanted in zip(alone, both, strict=True):
        torch.testing.assert_close(torch.zeros_like(wanted) if ours is None else ours, wanted, rtol=0, atol=0)


def test_missing_gradients_are_not_computed(backend, monkeypatch):
    """No parameters wanted: no sums. No gradient of y: no pass. No gradient of the sum: none is made of zeros."""
    calls = []
    from videomae_kernels.tokens import norm

    backward = norm._backward_op
    monkeypatch.setattr(norm, "_backward_op", lambda *args: calls.append(args) or backward(*args))
    x, branch, weight, bias = make_inputs(backend.device, 2, 5, 24)
    x.requires_grad_()
    total, y = add_layer_norm(x, branch, weight, bias)
    grad = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(total, x, grad, retain_graph=True)[0], grad)
    assert calls == []
    torch.autograd.grad(y, x, grad)
    (arguments,) = calls
    assert arguments[0] is None and arguments[-1] is False
    assert backward(*arguments)[2].numel() == 0


def test_gradients_through_views(backend):
    x, branch, weight, bias = (x.requires_grad_() for x in make_inputs(backend.device, 2, 6, 8))
    assert_strided_gradients(lambda x, branch: add_layer_norm(x, branch, weight, bias)[0], (x, branch))
    assert_strided_gradients(lambda *inputs: add_layer_norm(*inputs)[1], (x, branch, weight, bias))
    last = lambda x, branch, *parameters: add_layer_norm(x[:, -2:], branch[:, -2:], *parameters)[1]  # noqa: E731
    assert_strided_gradients(last, (x, branch, weight, bias))


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8)])
def test_no_rows(shape, backend):
    inputs = [x.requires_grad_() for x in make_inputs(backend.device, *shape)]
    total, y = add_layer_norm(*inputs)
    assert total.shape == y.shape == shape
    *of_rows, of_weight, of_bias = torch.autograd.grad((total.sum() + y.sum()), inputs)
    assert all(grad.shape == shape for grad in of_rows)
    assert not of_weight.any() and not of_bias.any()


def test_float64_on_a_cpu():
    inputs = [x.double() for x in make_inputs("cpu", 3, 4, 10)]
    compare(inputs, torch.float64, ulps=8)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *inputs: add_layer_norm(*inputs, EPS), leaves)


def test_backward_keeps_no_normalised_rows():
    """Between forward and backward: the sum, which the residual stream keeps anyway, and two numbers a row."""
    inputs = [x.requires_grad_() for x in make_inputs("cpu", 2, 5, 24)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        total, _ = add_layer_norm(*inputs)
    assert sorted(x.numel() for x in kept) == [10, 10, 24, 240]
    assert [x.data_ptr() for x in kept if x.numel() == 240] == [total.data_ptr()]


@pytest.mark.parametrize("width", [2, 5, 8, 31])
def test_the_lanes_of_a_short_row_agree_on_its_statistics(width, backend):
    """Else it is open which lane's rounding is kept: two lanes store one address, which stops a launch on PTX."""
    x, branch = torch.randn(2, 200, width, device=backend.device)
    weight, bias = torch.ones(2, width, device=backend.device)
    leaves = [t.requires_grad_() for t in (x, branch, weight, bias)]
    total, y = add_layer_norm(*leaves, EPS)
    torch.testing.assert_close(y, F.layer_norm(total, (width,), weight, bias, EPS))
    torch.autograd.grad(y, leaves, torch.randn_like(y))
