import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.kernels import truth
from videomae_kernels import add_rms_norm, rms_norm
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6
WIDTHS = (1, 7, 384, 1000, 1408, 3200)


def make_inputs(device, *shape, dtypes=(torch.float32,) * 3):
    """x and branch of `shape`, weight and scale of its last size; dtypes of x, of branch, and of both parameters."""
    rows = [(3 * torch.randn(shape, device=device) + 1).to(dtype) for dtype in dtypes[:2]]
    parameters = [torch.randn(shape[-1], device=device).to(dtypes[2]) for _ in range(2)]
    return [*rows, *parameters]


def plain(x, branch, weight, scale, dtype):
    """Float32 arithmetic, every result that another operation reads rounded on its own."""
    total = (x + (branch.float() * scale.float()).to(branch.dtype)).to(x.dtype)
    return total, F.rms_norm(total.float(), total.shape[-1:], weight.float(), EPS).to(dtype)


def exact(x, branch, weight, scale, dtype):
    """Float64, from the sum as it is rounded."""
    total = x.double() + scale.double() * branch.double()
    rounded = torch.addcmul(x.float(), scale.float(), branch.float()) if x.dtype != torch.float64 else total
    total = total + (rounded.to(x.dtype).double() - total).detach()
    return total, truth.rms_norm(total, weight, EPS)


def fused(x, branch, weight, scale, dtype):
    return add_rms_norm(x, branch, weight, EPS, dtype, scale)


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


def precisions():
    """Every pair of two dtypes; all combinations are slow."""
    for dtypes in itertools.product(FLOATS[::2], FLOATS, FLOATS[::2], FLOATS[::2]):
        x, branch, y, parameters = dtypes
        pairs = (y != x) == (branch == torch.float16) and (parameters != x) == (branch == torch.bfloat16)
        yield pytest.param(dtypes, marks=() if pairs else pytest.mark.slow)


@pytest.mark.parametrize("dtypes", list(precisions()))
def test_results_and_gradients_in_every_precision(dtypes, backend):
    x, branch, y, parameters = dtypes
    compare(make_inputs(backend.device, 2, 5, 24, dtypes=(x, branch, parameters)), y, ulps=2)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width, dtype, backend):
    compare(make_inputs(backend.device, 3, 2, width, dtypes=(dtype, dtype, torch.float32)), dtype, ulps=4)


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (2, 3, 2, 24), (1, 1, 24)])
def test_any_number_of_dimensions(shape, backend):
    compare(make_inputs(backend.device, *shape), torch.float32, ulps=4)


def test_more_rows_than_programs_take_at_once(backend, monkeypatch):
    """Each program sums over several blocks of rows, the last of them partly filled."""
    from videomae_kernels import _tiling

    monkeypatch.setitem(_tiling.SUMMING_WARPS, "rms_norm_backward", 3)
    compare(make_inputs(backend.device, 3, 21, 64), torch.float32, ulps=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_scale_is_a_scale_of_one(dtype, backend):
    """Bit by bit, and the gradients of x and of a branch of its dtype are one tensor."""
    x, branch, weight, scale = make_inputs(backend.device, 2, 5, 24, dtypes=(dtype, dtype, torch.float32))
    leaves = [t.requires_grad_() for t in (x, branch, weight)]
    without = add_rms_norm(*leaves, EPS)
    with_ones = add_rms_norm(*leaves, EPS, None, torch.ones_like(scale))
    grads = [torch.randn_like(t) for t in without]
    found = torch.autograd.grad(without, leaves, grads)
    assert found[0].data_ptr() == found[1].data_ptr()
    for ours, other in zip(
        (*without, *found), (*with_ones, *torch.autograd.grad(with_ones, leaves, grads)), strict=True
    ):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("result", FLOATS)
def test_the_norm_alone_is_the_norm_of_the_sum_bit_by_bit(dtype, result, backend):
    """So that backward can normalise the sum again; rows wider than their sum may be added up in another order."""
    x, branch, weight, scale = make_inputs(backend.device, 2, 5, 40, dtypes=(dtype, torch.bfloat16, torch.float32))
    total, y = add_rms_norm(x, branch, weight, EPS, result, scale)
    again = rms_norm(total, weight, EPS, result)
    if dtype.itemsize >= result.itemsize:
        assert torch.equal(again, y)
    torch.testing.assert_close(again, y)


def test_the_norm_alone(backend):
    x, _, weight, _ = make_inputs(backend.device, 2, 5, 24)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    grad = torch.randn_like(x)
    y = rms_norm(x, weight, EPS)
    doubles = [t.detach().double().requires_grad_() for t in (x, weight)]
    wanted = truth.rms_norm(*doubles, EPS)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(y, (x, weight), grad)
    for ours, true in zip(found, torch.autograd.grad(wanted, doubles, grad.double()), strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-5)


def test_results_have_the_dtype_of_x_unless_told():
    x, branch, weight, _ = make_inputs("cpu", 2, 4, dtypes=(torch.bfloat16, *(torch.float32,) * 2))
    assert [out.dtype for out in add_rms_norm(x, branch, weight)] == [torch.bfloat16] * 2
    assert rms_norm(x, weight).dtype == torch.bfloat16
    assert rms_norm(x, weight, dtype=torch.float32).dtype == torch.float32


def test_rows_of_zeros_are_zeros(backend):
    """And have a finite gradient."""
    x = torch.zeros(3, 24, device=backend.device, requires_grad=True)
    y = rms_norm(x, torch.ones(24, device=backend.device), EPS)
    assert not y.any()
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(grad, torch.full_like(grad, EPS**-0.5))


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
    """Of inputs, and of what backward keeps of them."""
    x = torch.randn(2, 6, 16, device=backend.device)
    other, x = view(torch.randn_like(x)), view(x)
    weight, scale = torch.randn(2, 2 * x.shape[-1], device=backend.device)[:, ::2]
    for function in (
        lambda x, other, weight, scale: torch.cat(add_rms_norm(x, other, weight, EPS, None, scale), -1),
        lambda x, other, weight, scale: rms_norm(x, weight) + 0 * (other + scale),
    ):
        found = []
        for inputs in ((x, other, weight, scale), [t.contiguous() for t in (x, other, weight, scale)]):
            leaves = [t.detach().requires_grad_() for t in inputs]
            y = function(*leaves)
            found.append([y, *torch.autograd.grad(y, leaves, torch.ones_like(y))])
        for strided, contiguous in zip(*found, strict=True):
            assert torch.equal(strided, contiguous)


def test_queries_and_keys_of_one_matrix_are_not_copied(monkeypatch):
    """Forward and backward read the columns of both where the product wrote them."""
    qkv = torch.randn(2, 5, 3, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        q, k, _ = qkv.unbind(2)
        rms_norm(q, torch.ones(8)), rms_norm(k, torch.ones(8))
    rows = [t for t in kept if t.shape == (2, 5, 8)]
    assert [t.untyped_storage().data_ptr() for t in rows] == [qkv.untyped_storage().data_ptr()] * 2


@pytest.mark.parametrize("with_scale", [False, True])
@pytest.mark.parametrize("result", [0, 1], ids=["sum", "normalised"])
def test_gradients_of_one_result_alone(result, with_scale, backend):
    """A gradient that is missing counts as zero, and makes no difference to the others."""
    inputs = make_inputs(backend.device, 2, 5, 24)
    leaves = [x.requires_grad_() for x in inputs[: 3 + with_scale]]
    outputs = add_rms_norm(*leaves[:3], EPS, None, *leaves[3:])
    grad = torch.randn_like(outputs[result])
    alone = torch.autograd.grad(outputs[result], leaves, grad, retain_graph=True, allow_unused=True)
    grads = [grad if i == result else torch.zeros_like(grad) for i in range(2)]
    both = torch.autograd.grad(outputs, leaves, grads)
    for ours, wanted in zip(alone, both, strict=True):
        torch.testing.assert_close(torch.zeros_like(wanted) if ours is None else ours, wanted, rtol=1e-6, atol=1e-6)


def test_missing_gradients_are_not_computed(backend, monkeypatch):
    """No parameters wanted: no sums. No gradient of y: no pass. No gradient of the sum: none is made of zeros."""
    calls = []
    from videomae_kernels.tokens import rms_norm as module

    backward = module._backward_op
    monkeypatch.setattr(module, "_backward_op", lambda *args: calls.append(args) or backward(*args))
    x, branch, weight, scale = make_inputs(backend.device, 2, 5, 24)
    x.requires_grad_()
    total, y = add_rms_norm(x, branch, weight, EPS, None, scale)
    grad = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(total, x, grad, retain_graph=True)[0], grad)
    assert calls == []
    torch.autograd.grad(y, x, grad)
    (arguments,) = calls
    assert arguments[0] is None and arguments[5] is None and arguments[-1] is False
    assert backward(*arguments)[2].numel() == 0


@pytest.mark.parametrize("trained", [(2,), (3,)], ids=["weight", "scale"])
def test_sums_of_one_parameter_alone(trained, backend):
    """Are those of both."""
    inputs = make_inputs(backend.device, 2, 5, 24)
    found = []
    for wanted in ((2, 3), trained):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
        y = torch.cat(fused(*leaves, torch.float32), -1)
        grads = torch.autograd.grad(y, [leaves[i] for i in wanted], torch.ones_like(y))
        found.append(dict(zip(wanted, grads, strict=True)))
    assert torch.equal(found[0][trained[0]], found[1][trained[0]])


def test_gradients_of_views_and_of_the_scale(backend):
    x, branch, weight, scale = (x.requires_grad_() for x in make_inputs(backend.device, 2, 6, 8))
    whole = lambda x, branch, weight, scale: add_rms_norm(x, branch, weight, EPS, None, scale)  # noqa: E731
    assert_strided_gradients(lambda x, branch: whole(x, branch, weight, scale)[0], (x, branch))
    assert_strided_gradients(lambda *inputs: whole(*inputs)[1], (x, branch, weight, scale))
    last = lambda x, branch, *parameters: whole(x[:, -2:], branch[:, -2:], *parameters)[1]  # noqa: E731
    assert_strided_gradients(last, (x, branch, weight, scale))


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8)])
def test_no_rows(shape, backend):
    x, branch, weight, scale = inputs = [t.requires_grad_() for t in make_inputs(backend.device, *shape)]
    total, y = add_rms_norm(x, branch, weight, EPS, None, scale)
    assert total.shape == y.shape == shape
    *of_rows, of_weight, of_scale = torch.autograd.grad((total.sum() + y.sum()), inputs)
    assert all(grad.shape == shape for grad in of_rows)
    assert not of_weight.any() and not of_scale.any()


def test_float64_on_a_cpu():
    inputs = [t.double() for t in make_inputs("cpu", 2, 2, 5)]
    compare(inputs, torch.float64, ulps=8)
    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda x, b, w, s: add_rms_norm(x, b, w, EPS, None, s), leaves)
    assert torch.autograd.gradcheck(lambda x, b, w: add_rms_norm(x, b, w, EPS), leaves[:3])
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), (leaves[0], leaves[2]))


@pytest.mark.parametrize("trained", [False, True])
def test_backward_keeps_the_sum_and_for_a_trained_scale_the_branch(trained):
    """The sum the residual stream keeps anyway; the branch as it came; a number a row; the parameters."""
    x, branch, weight, scale = make_inputs("cpu", 2, 5, 24, dtypes=(torch.bfloat16, torch.bfloat16, torch.float32))
    x, weight, scale = x.requires_grad_(), weight.requires_grad_(), scale.requires_grad_(trained)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        total, _ = add_rms_norm(x, branch, weight, EPS, None, scale)
    assert sorted(t.numel() for t in kept) == [10, 24, 24, *[240] * (1 + trained)]
    rows = [t.data_ptr() for t in kept if t.numel() == 240]
    assert rows == [total.data_ptr(), *[branch.data_ptr()] * trained]


@pytest.mark.parametrize("width", [2, pytest.param(31, marks=pytest.mark.slow)])
def test_the_lanes_of_a_short_row_agree_on_its_statistics(width, backend):
    """Else it is open which lane's rounding is kept: two lanes store one address, which stops a launch on PTX."""
    x, branch = torch.randn(2, 50, width, device=backend.device)
    weight, scale = torch.ones(2, width, device=backend.device)
    leaves = [t.requires_grad_() for t in (x, branch, weight, scale)]
    total, y = fused(*leaves, torch.float32)
    torch.testing.assert_close(y, F.rms_norm(total, (width,), weight, EPS))
    torch.autograd.grad(y, leaves, torch.randn_like(y))
