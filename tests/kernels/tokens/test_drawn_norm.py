"""add_drawn_norm against float64, and against the ops that do its parts one by one."""

import itertools

import pytest
import torch

from tests.kernels import truth
from videomae_kernels import add_drawn_norm, add_layer_norm, add_rms_norm, layer_norm, rms_norm
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget

EPS, BATCH = 1e-6, 5
HALF, SINGLE = torch.bfloat16, torch.float32
NAMES = ("x", "branch", "weight", "scale", "bias")
RAN, RUNS = torch.tensor([2, 0, 4, 1, 3]), torch.tensor([4, 1, 0, 3, 2])
FACTOR = 1 / 0.7


def make_inputs(device, width=24, ran=3, dtypes=(SINGLE, SINGLE, SINGLE), batch=BATCH, rows=4):
    """x and branch, weight, scale and bias; dtypes of x, of branch, and of the parameters."""
    x = 3 * torch.randn(batch, rows, width, device=device) + 1
    branch = torch.randn(ran, rows, width, device=device)
    parameters = [torch.randn(width, device=device).to(dtypes[2]) for _ in range(3)]
    return [x.to(dtypes[0]), branch.to(dtypes[1]), *parameters]


def exact(x, branch, weight, scale, bias, dtype, ran, runs, count):
    """Float64, sample by sample, from the sum as it is rounded."""
    total = []
    for sample in range(len(x)):
        where = sample if ran is None else int(ran[sample])
        row = x[sample].double()
        if where < len(branch):
            row = row + FACTOR * (1 if scale is None else scale.double()) * branch[where].double()
        total.append(row + (row.to(x.dtype).double() - row).detach())
    order = range(len(x)) if runs is None else [runs.tolist().index(number) for number in range(count)]
    rows = torch.stack([total[sample] for sample in order]) if count else x.new_empty(0, *x.shape[1:]).double()
    y = truth.rms_norm(rows, weight, EPS) if bias is None else truth.layer_norm(rows, weight, bias, EPS)
    return torch.stack(total), y


def fused(x, branch, weight, scale, bias, dtype, ran, runs, count):
    draws = dict(ran=ran, runs=runs, count=count if runs is not None else None)
    total, _, y = add_drawn_norm(x, branch, weight, bias, EPS, dtype, scale=scale, factor=FACTOR, **draws)
    return total, y


def plain(x, branch, weight, scale, bias, dtype, ran, runs, count):
    """Every result that another operation reads rounded on its own, as `BranchDraw` does it in PyTorch."""
    if scale is not None:
        branch = (branch.float() * scale.float()).to(branch.dtype)
    index = torch.arange(len(x), device=x.device) if ran is None else ran.argsort()[: len(branch)]
    total = x.index_add(0, index, branch.to(x.dtype), alpha=FACTOR)
    rows = total if runs is None else total.index_select(0, runs.argsort()[:count])
    if bias is None:
        return total, rms_norm(rows, weight, EPS, dtype)
    return total, layer_norm(rows, weight, bias, EPS, dtype)


def run(function, inputs, call, grads):
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*leaves, *call)
    grads = [g.to(output.dtype) for g, output in zip(grads, outputs, strict=True)]
    found = torch.autograd.grad(outputs, [x for x in leaves if x is not None], grads)
    return [*(x.detach() for x in outputs), *found]


def compare(inputs, dtype, ran=RAN, runs=RUNS, count=2, *, ulps=4.0):
    device, shape = inputs[0].device, inputs[0].shape
    ran, runs = (place if place is None else place.to(device) for place in (ran, runs))
    count = len(inputs[0]) if runs is None else count
    grads = [torch.randn(shape, device=device).to(inputs[0].dtype)]
    grads.append(torch.randn(count, *shape[1:], device=device).to(dtype))
    call = dtype, ran, runs, count
    ours, theirs = run(fused, inputs, call, grads), run(plain, inputs, call, grads)
    doubles = [x.double() if x is not None and i > 1 else x for i, x in enumerate(inputs)]
    for actual, other, true in zip(ours, theirs, run(exact, doubles, call, grads), strict=True):
        assert actual.is_contiguous()
        assert_within_error_budget(actual, other, true.double(), ulps=ulps)


def without(inputs, *names):
    return [None if name in names else x for name, x in zip(NAMES, inputs, strict=True)]


VARIANTS = pytest.mark.parametrize(
    "missing", [(), ("bias",), ("scale",), ("scale", "bias")], ids=["scaled_layer", "scaled_rms", "layer", "rms"]
)


EXTREMES = pytest.mark.parametrize("missing", [(), ("scale", "bias")], ids=["scaled_layer", "rms"])


@VARIANTS
@pytest.mark.parametrize("ran", [None, RAN], ids=["all_ran", "ran"])
@pytest.mark.parametrize("runs", [None, RUNS], ids=["all_run", "runs"])
def test_results_and_gradients(missing, ran, runs, backend):
    inputs = make_inputs(backend.device, ran=BATCH if ran is None else 3)
    compare(without(inputs, *missing), SINGLE, ran, runs)


@EXTREMES
@pytest.mark.parametrize("dtypes", list(itertools.product((SINGLE, HALF), (SINGLE, HALF), (SINGLE, HALF))))
def test_every_precision(missing, dtypes, backend):
    compare(without(make_inputs(backend.device, 10, dtypes=(*dtypes[:2], SINGLE), rows=2), *missing), dtypes[2])


@EXTREMES
@pytest.mark.parametrize("width", [1, 7, 1408])
def test_widths(width, missing, backend):
    compare(without(make_inputs(backend.device, width, rows=1), *missing), SINGLE, ulps=8)


@pytest.mark.parametrize("ran", [1, BATCH])
@pytest.mark.parametrize("count", [1, BATCH])
def test_one_sample_and_every_sample(ran, count, backend):
    compare(make_inputs(backend.device, ran=ran), SINGLE, count=count)


def test_no_sample(backend):
    """The sum is x, and so are the gradients."""
    x, branch, weight, scale, bias = leaves = [t.requires_grad_() for t in make_inputs(backend.device, ran=0)]
    places = dict(ran=RAN.to(backend.device), runs=RUNS.to(backend.device), count=0)
    total, rows, y = add_drawn_norm(x, branch, weight, bias, EPS, scale=scale, **places)
    assert torch.equal(total, x) and rows.shape == y.shape == (0, *x.shape[1:])
    of_x, *others = torch.autograd.grad(total.sum() + y.sum(), leaves)
    assert torch.equal(of_x, torch.ones_like(x)) and not any(grad.any() for grad in others)


@pytest.mark.parametrize("shape", [(0, 4), (BATCH, 0)])
def test_no_rows(shape, backend):
    """No gradient of a parameter but zero."""
    batch, rows = shape
    x, branch, weight, scale, bias = make_inputs(backend.device, batch=batch, ran=batch, rows=rows)
    leaves = [t.requires_grad_() for t in (x, branch, weight, scale, bias)]
    total, kept, y = add_drawn_norm(x, branch, weight, bias, EPS, scale=scale)
    assert total.shape == kept.shape == y.shape == x.shape
    assert not any(grad.any() for grad in torch.autograd.grad(total.sum() + y.sum(), leaves))


def test_more_rows_than_programs_take_at_once(backend, monkeypatch):
    """Each program sums over several blocks of rows, the last of them partly filled."""
    from videomae_kernels import _tiling

    monkeypatch.setitem(_tiling.SUMMING_WARPS, "add_drawn_norm_backward", 3)
    compare(make_inputs(backend.device, 64, rows=5), SINGLE)


@pytest.mark.parametrize("result", [SINGLE, HALF])
@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("biased", [False, True])
def test_the_norm_alone_is_the_norm_of_rows_bit_by_bit(dtype, result, biased, backend):
    """So that backward can normalise the rows again; rows wider than their sum may be added up in another order."""
    x, branch, weight, scale, bias = make_inputs(backend.device, 40, dtypes=(dtype, HALF, SINGLE))
    ran, runs = RAN.to(backend.device), RUNS.to(backend.device)
    parameters = (weight, bias) if biased else (weight,)
    call = dict(scale=scale, factor=FACTOR, ran=ran, runs=runs, count=2)
    total, rows, y = add_drawn_norm(x, branch, weight, bias if biased else None, EPS, result, **call)
    assert torch.equal(rows, total[[2, 1]])
    again = (layer_norm if biased else rms_norm)(rows, *parameters, EPS, result)
    if dtype.itemsize >= result.itemsize:
        assert torch.equal(again, y)
    torch.testing.assert_close(again, y)


@pytest.mark.parametrize("biased", [False, True])
def test_all_samples_and_a_factor_of_one_are_the_plain_ops(biased, backend):
    x, branch, weight, scale, bias = make_inputs(backend.device, ran=BATCH, dtypes=(HALF, HALF, SINGLE))
    if biased:
        wanted = add_layer_norm(x, branch, weight, bias, EPS)
        total, rows, y = add_drawn_norm(x, branch, weight, bias, EPS)
    else:
        wanted = add_rms_norm(x, branch, weight, EPS, scale=scale)
        total, rows, y = add_drawn_norm(x, branch, weight, None, EPS, scale=scale)
    assert rows is total
    assert torch.equal(total, wanted[0]) and torch.equal(y, wanted[1])


@pytest.mark.parametrize("result", [0, 2], ids=["sum", "normalised"])
def test_gradients_of_one_result_alone(result, backend):
    """A gradient that is missing counts as zero."""
    leaves = [x.requires_grad_() for x in make_inputs(backend.device)]
    x, branch, weight, scale, bias = leaves
    call = dict(scale=scale, ran=RAN.to(backend.device), runs=RUNS.to(backend.device), count=2)
    outputs = add_drawn_norm(x, branch, weight, bias, EPS, **call)
    assert not outputs[1].requires_grad
    grad = torch.randn_like(outputs[result])
    alone = torch.autograd.grad(outputs[result], leaves, grad, retain_graph=True)
    grads = [grad if i == result else torch.zeros_like(outputs[i]) for i in (0, 2)]
    for ours, wanted in zip(alone, torch.autograd.grad(outputs[::2], leaves, grads), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_gradients_of_views_and_of_the_scale(backend):
    places = dict(ran=RAN.to(backend.device), runs=RUNS.to(backend.device), count=2)
    x, branch, weight, scale, bias = (t.requires_grad_() for t in make_inputs(backend.device, 8))

    def last(x, branch, scale):
        return add_drawn_norm(x[:, -2:], branch[:, -2:], weight, bias, EPS, scale=scale, **places)

    assert_strided_gradients(lambda *inputs: last(*inputs)[0], (x, branch, scale))
    assert_strided_gradients(lambda *inputs: last(*inputs)[2], (x, branch, scale))


@VARIANTS
def test_float64_on_a_cpu(missing):
    inputs = without([t.double() for t in make_inputs("cpu", 6, rows=2)], *missing)
    compare(inputs, torch.float64, ulps=16)
    given = [x.requires_grad_() for x in inputs if x is not None]

    def call(*given):
        tensors = iter(given)
        return fused(*(None if x is None else next(tensors) for x in inputs), torch.float64, RAN, RUNS, 2)

    assert torch.autograd.gradcheck(call, given)


@pytest.mark.parametrize("trained", [False, True])
def test_backward_keeps_the_normalised_rows_and_for_a_trained_scale_the_branch(trained):
    """Of the samples that were drawn alone."""
    x, branch, weight, scale, bias = make_inputs("cpu", dtypes=(HALF, HALF, SINGLE))
    x, weight, scale = x.requires_grad_(), weight.requires_grad_(), scale.requires_grad_(trained)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _, rows, _ = add_drawn_norm(x, branch, weight, bias, EPS, scale=scale, ran=RAN, runs=RUNS, count=2)
    large = {t.data_ptr(): t.shape for t in kept if t.ndim == 3}
    assert large == {rows.data_ptr(): (2, 4, 24)} | ({branch.data_ptr(): (3, 4, 24)} if trained else {})
