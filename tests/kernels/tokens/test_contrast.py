import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels import truth
from videomae_kernels import contrastive_loss
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget
from videomae_kernels.tokens import contrast, pairs

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
KINDS = ("clip", "siglip")
IDS = ((), ("x_ids",), ("y_ids",), ("x_ids", "y_ids"))
kinds = pytest.mark.parametrize("kind", KINDS)


def make_inputs(kind, n, width=12, *, device="cpu", dtypes=(torch.float32,) * 2, scale=10.0, bias=-3.0, ids=()):
    """Arguments of contrastive_loss: x and y of `dtypes`; by each of `ids`, pairs have one partner."""
    x, y = (F.normalize(torch.randn(n, width, device=device), dim=1).to(dtype) for dtype in dtypes)
    inputs = {"x": x, "y": y, "scale": torch.tensor(scale, device=device), "kind": kind}
    if kind == "siglip":
        inputs["bias"] = torch.tensor(bias, device=device)
    return inputs | {name: (torch.randperm(n) // 2 * 2**40 - 9).to(device) for name in ids}


def widened(inputs, dtype):
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}


def plain(x, y, scale, bias=None, kind="clip", x_ids=None, y_ids=None):
    """The textbook's composition, with all products at once, in float32."""
    products = x.float() @ y.float().T
    same = torch.eye(len(x), dtype=torch.bool, device=x.device)
    for ids in (x_ids, y_ids):
        same = same if ids is None else same | (ids[:, None] == ids)
    if kind == "siglip":
        return F.softplus(torch.where(same, -1, 1) * (scale * products + bias)).sum() / len(x)
    target = same / same.sum(1, keepdim=True)
    logits = scale * products
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def run(function, inputs):
    """The loss, then the gradients of x, y, scale and bias."""
    leaves = {k: v.detach().requires_grad_() if k in ("x", "y", "scale", "bias") else v for k, v in inputs.items()}
    loss = function(**leaves)
    wanted = [v for v in leaves.values() if isinstance(v, Tensor) and v.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, wanted, torch.full_like(loss, 1.75))]


def compare(inputs, *, ulps=8.0):
    wanted = run(truth.contrastive_loss, widened(inputs, torch.float64))
    for ours, theirs, true in zip(run(contrastive_loss, inputs), run(plain, inputs), wanted, strict=True):
        assert_within_error_budget(ours, theirs, true, ulps=ulps)


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles of few rows, for the reference and for the kernels."""
    monkeypatch.setattr(pairs, "TILE", (5, 7))
    monkeypatch.setattr(pairs, "ROWS", 16)


@pytest.mark.parametrize("dtypes", list(itertools.product(FLOATS, FLOATS)))
@kinds
def test_loss_and_gradients_in_every_precision(kind, dtypes, backend):
    compare(make_inputs(kind, 9, device=backend.device, dtypes=dtypes))


@pytest.mark.parametrize(("n", "ids"), [*itertools.product((3, 35), IDS), (150, IDS[0]), (150, IDS[-1])])
@kinds
def test_positives_over_several_tiles(kind, ids, n, backend, small_tiles):
    compare(make_inputs(kind, n, device=backend.device, ids=ids), ulps=16)


@pytest.mark.parametrize("width", [1, 3, 64, 300])
@kinds
def test_widths(kind, width, backend):
    compare(make_inputs(kind, 20, width, device=backend.device), ulps=16)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 100.0, 1e4, 1e20])
@kinds
def test_no_scale_overflows(kind, scale, backend, small_tiles):
    """exp(100) is beyond float32 already; a softmax of logits far apart is one at its largest and 0 elsewhere."""
    inputs = make_inputs(kind, 20, device=backend.device, scale=scale)
    inputs["x"][::3] = inputs["y"][::3]  # with logits of `scale` itself
    wanted = run(truth.contrastive_loss, widened(inputs, torch.float64))
    exact = scale <= 100 or kind == "siglip"
    for ours, true in zip(run(contrastive_loss, inputs), wanted, strict=True):
        assert ours.isfinite().all()
        if exact and true.isfinite().all():
            torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))


@pytest.mark.parametrize("bias", [-30.0, -10.0, 30.0])
def test_small_sigmoids_are_not_rounded_away(bias, backend):
    """Of log(1 + e) with e = exp(-10) an addition in float32 leaves three digits, of exp(-30) nothing."""
    inputs = make_inputs("siglip", 40, device=backend.device, bias=bias, scale=1.0)
    wanted = run(truth.contrastive_loss, widened(inputs, torch.float64))
    for ours, true in zip(run(contrastive_loss, inputs), wanted, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=2e-5, atol=2e-6 * float(true.abs().max()))


@pytest.mark.parametrize("ids", IDS[1:])
@kinds
def test_no_negatives(kind, ids, backend, small_tiles):
    """All pairs are positives of each other: a loss as any other, and where all products are equal clip's is log n."""
    same = {name: torch.full((20,), 2**40, device=backend.device) for name in ids}
    inputs = make_inputs(kind, 20, device=backend.device) | same
    compare(inputs, ulps=16)
    if kind == "clip":
        equal = inputs | {"y": inputs["y"][:1].repeat(20, 1), "x": inputs["x"][:1].repeat(20, 1)}
        loss, of_x, of_y, _ = run(contrastive_loss, equal)
        assert float(loss) == pytest.approx(math.log(20))
        assert float(of_x.abs().max()) < 1e-5 > float(of_y.abs().max())


@kinds
def test_the_order_of_pairs_does_not_count(kind, backend, small_tiles):
    inputs = make_inputs(kind, 33, device=backend.device, ids=("x_ids", "y_ids"))
    order = torch.randperm(33).to(backend.device)
    other = {k: v[order] if isinstance(v, Tensor) and v.ndim else v for k, v in inputs.items()}
    first, second = run(contrastive_loss, inputs), run(contrastive_loss, other)
    for n, (ours, wanted) in enumerate(zip(second, first, strict=True)):
        torch.testing.assert_close(ours, wanted[order] if n in (1, 2) else wanted)


@kinds
def test_ids_of_no_two_pairs_change_nothing(kind, backend, small_tiles):
    inputs = make_inputs(kind, 33, device=backend.device)
    ids = torch.arange(33, device=backend.device) * 2**40 - 7
    with_ids = run(contrastive_loss, inputs | {"x_ids": ids, "y_ids": -ids})
    for ours, wanted in zip(with_ids, run(contrastive_loss, inputs), strict=True):
        assert torch.equal(ours, wanted)


def test_aligned_pairs_far_from_all_others_cost_nothing(backend):
    """Orthogonal pairs: log(1 + (n - 1)·exp(-scale)) with clip."""
    x = torch.eye(8, device=backend.device)
    for scale, wanted in ((100.0, 0.0), (2.0, float(torch.tensor(7.0).double().mul(torch.tensor(-2.0).exp()).log1p()))):
        loss = contrastive_loss(x, x, torch.tensor(scale, device=backend.device))
        torch.testing.assert_close(loss, torch.full_like(loss, wanted), rtol=1e-6, atol=1e-6)


def test_counts_of_positives_are_those_of_the_matrix():
    for _ in range(20):
        ids = torch.randint(-5, 5, (2, 17))
        for relations in (ids, ids[:1]):
            same = (relations[:, :, None] == relations[:, None]).any(0)
            assert torch.equal(pairs.counts(relations), same.sum(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["x", "y", "scale"])
@kinds
def test_what_is_not_finite_is_not_hidden(kind, which, value, backend):
    inputs = make_inputs(kind, 9, device=backend.device)
    inputs[which].view(-1)[0] = value
    assert not contrastive_loss(**inputs).isfinite()


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[3:], id="last_rows"),
        pytest.param(lambda x: x[:, 5:], id="sliced_columns"),
        pytest.param(lambda x: x[:1].expand(9, -1), id="expanded_rows"),
        pytest.param(lambda x: x[:, :1].expand(-1, 8), id="expanded_columns"),
        pytest.param(lambda x: x.mT.contiguous().mT, id="columns_outermost"),
        pytest.param(lambda x: x.flip(0)[::2], id="every_other"),
    ],
)
@kinds
def test_any_strides(kind, view, backend, small_tiles):
    inputs = make_inputs(kind, 24, device=backend.device)
    inputs |= {"x": view(inputs["x"]), "y": view(inputs["y"].roll(1, 0))}
    close = inputs | {"x": inputs["x"].contiguous(), "y": inputs["y"].contiguous()}
    for ours, wanted in zip(run(contrastive_loss, inputs), run(contrastive_loss, close), strict=True):
        torch.testing.assert_close(ours, wanted)


@kinds
def test_gradients_through_views(kind, backend):
    inputs = make_inputs(kind, 12, device=backend.device)
    x, y = (inputs.pop(name).requires_grad_() for name in ("x", "y"))
    assert_strided_gradients(lambda x, y: contrastive_loss(x[2:, 3:], y[2:, 3:], **inputs), (x, y))


@kinds
def test_a_frozen_side_costs_no_gradient(kind, backend, monkeypatch):
    calls = []
    backward = contrast._backward_op
    monkeypatch.setattr(contrast, "_backward_op", lambda *args: calls.append(args) or backward(*args))
    inputs = make_inputs(kind, 9, device=backend.device)
    torch.autograd.grad(contrastive_loss(**(inputs | {"x": inputs["x"].requires_grad_()})), inputs["x"])
    (arguments,) = calls
    assert arguments[-2:] == (True, False) and backward(*arguments)[1].numel() == 0


@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize("ids", IDS, ids="+".join)
@kinds
def test_float64_on_a_cpu(kind, ids, which, small_tiles):
    inputs = make_inputs(kind, 17, ids=ids)
    assert contrastive_loss(**(inputs | {which: inputs[which].double()})).dtype == torch.float64
    inputs = widened(inputs, torch.float64)
    for ours, true in zip(run(contrastive_loss, inputs), run(truth.contrastive_loss, inputs), strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-12, atol=1e-14)
    names = [name for name in ("x", "y", "scale", "bias") if name in inputs]
    leaves = [inputs[name].requires_grad_() for name in names]
    call = lambda *leaves: contrastive_loss(**(inputs | dict(zip(names, leaves, strict=True))))  # noqa: E731
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


@kinds
def test_one_pair_has_no_negative(kind):
    with pytest.raises(ValueError, match="x must have two rows or more"):
        contrastive_loss(**make_inputs(kind, 1))


def test_clip_has_no_bias():
    with pytest.raises(ValueError, match="bias must be None for kind 'clip'"):
        contrastive_loss(**make_inputs("clip", 4), bias=torch.tensor(1.0))


def test_siglip_without_a_bias_is_one_with_a_bias_of_0(backend):
    inputs = make_inputs("siglip", 9, device=backend.device, bias=0.0)
    with_bias = contrastive_loss(**inputs)
    del inputs["bias"]
    assert torch.equal(contrastive_loss(**inputs), with_bias)


@pytest.mark.parametrize("ids", IDS, ids="+".join)
@kinds
def test_backward_keeps_rows_ids_and_two_numbers_of_each_pair(kind, ids):
    """And, of clip with ids, one more: how many positives it has. Nothing is widened."""
    inputs = make_inputs(kind, 20, dtypes=(torch.bfloat16,) * 2, ids=ids)
    leaves = {k: v.requires_grad_() if k in ("x", "y", "scale", "bias") else v for k, v in inputs.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        contrastive_loss(**leaves)
    given = {v.data_ptr() for v in inputs.values() if isinstance(v, Tensor)}
    own = [t for t in kept if t.data_ptr() not in given and t.numel() > 1]
    numbers = 0 if kind == "siglip" else 2 + bool(ids)
    assert {inputs["x"].data_ptr(), inputs["y"].data_ptr()} <= {t.data_ptr() for t in kept}
    assert sum(t.nbytes for t in own) == 20 * (4 * numbers + 8 * len(ids))


class Largest(TorchDispatchMode):
    """The most bytes of a tensor that any operation makes or fills, inside the op as well."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        self.most = max([self.most, *(x.untyped_storage().nbytes() for x in results if isinstance(x, Tensor))])
        return out


@kinds
def test_no_tensor_grows_with_the_square_of_pairs(kind, backend, small_tiles):
    """Forward and backward: none has more bytes than x in float32, or than a tile's products."""
    n, width = 200, 16
    inputs = make_inputs(kind, n, width, device=backend.device, dtypes=(torch.bfloat16,) * 2, ids=("x_ids", "y_ids"))
    leaves = {k: v.requires_grad_() if k in ("x", "y", "scale", "bias") else v for k, v in inputs.items()}
    with Largest() as largest:
        contrastive_loss(**leaves).backward()
    assert largest.most <= 4 * n * width < n * n  # which even one byte a pair would take
