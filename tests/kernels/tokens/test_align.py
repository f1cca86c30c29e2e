import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels import truth
from videomae_kernels import alignment_loss
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-5
WIDTHS = (2, 7, 384, 768, 1000, 1408, 3200, 4096)


def make_inputs(device, *shape, dtypes=(torch.float32,) * 3):
    """x and target of `shape`, weight and bias of its last size; dtypes of x, of target, and of both parameters."""
    rows = [(scale * torch.randn(shape, device=device) + 1).to(d) for scale, d in zip((3, 20), dtypes[:2], strict=True)]
    return [*rows, *(torch.randn(shape[-1], device=device).to(dtypes[2]) for _ in range(2))]


def plain(x, target, weight, bias):
    """The textbook's composition, in float32 unless a float64 comes."""
    x, target, weight, bias = (t if t.dtype == torch.float64 else t.float() for t in (x, target, weight, bias))
    rows = F.layer_norm(x, x.shape[-1:], weight, bias, EPS)
    return (2 - 2 * (F.normalize(rows, dim=-1) * F.normalize(target, dim=-1)).sum(-1)).mean()


def run(function, inputs):
    """The loss, then the gradients of x, weight and bias."""
    x, target, *parameters = inputs
    leaves = [t.detach().clone().requires_grad_() for t in (x, *parameters)]
    loss = function(leaves[0], target, *leaves[1:])
    return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.full_like(loss, 1.75))]


def compare(inputs, *, ulps=4.0):
    wanted = run(lambda *leaves: truth.alignment_loss(*leaves, EPS), [t.double() for t in inputs])
    for ours, theirs, true in zip(run(alignment_loss, inputs), run(plain, inputs), wanted, strict=True):
        assert ours.is_contiguous()
        assert_within_error_budget(ours, theirs, true, ulps=ulps)


def precisions():
    """Every pair of two dtypes; all combinations are slow."""
    for i, dtypes in enumerate(itertools.product(FLOATS, FLOATS, FLOATS[::2])):
        yield pytest.param(dtypes, marks=pytest.mark.slow if i // 2 % 2 != i % 2 else ())


@pytest.mark.parametrize("dtypes", list(precisions()))
def test_loss_and_gradients_in_every_precision(dtypes, backend):
    compare(make_inputs(backend.device, 2, 5, 24, dtypes=dtypes))


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width, dtype, backend):
    compare(make_inputs(backend.device, 3, 2, width, dtypes=(dtype, dtype, torch.float32)), ulps=16)


def test_rows_of_one_element_cannot_turn(backend):
    x, target, weight, bias = make_inputs(backend.device, 3, 2, 1)
    loss, of_x, *_ = run(alignment_loss, (x, target, weight, bias))
    torch.testing.assert_close(loss, plain(x, target, weight, bias))
    torch.testing.assert_close(of_x, torch.zeros_like(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (2, 3, 2, 24), (1, 1, 24), (1, 24), (7, 1, 24)])
def test_any_number_of_dimensions(shape, backend):
    compare(make_inputs(backend.device, *shape))


def test_more_rows_than_programs_take_at_once(backend, monkeypatch):
    """Each program sums over several blocks of rows, the last of them partly filled."""
    from videomae_kernels import _tiling

    monkeypatch.setitem(_tiling.SUMMING_WARPS, "alignment_loss_backward", 3)
    compare(make_inputs(backend.device, 3, 23, 300), ulps=8)


@pytest.mark.parametrize("shape", [(2, 7, 12), (7, 2, 12), (14, 12), (14, 1, 12)])
@pytest.mark.parametrize("cached", [1, 36, 60, 1000])
def test_pieces_of_the_reference_are_all_rows_once(shape, cached, monkeypatch):
    from videomae_kernels.tokens import align

    inputs = make_inputs("cpu", *shape)
    whole = run(alignment_loss, inputs)
    monkeypatch.setattr(align, "CACHED", cached)
    assert sum(align._samples(inputs[0])[piece].numel() for piece in align._pieces(align._samples(inputs[0]))) == 168
    for ours, wanted in zip(run(alignment_loss, inputs), whole, strict=True):
        torch.testing.assert_close(ours, wanted)


class Widened(TorchDispatchMode):
    """The most elements of a float32 result of any operation."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        self.most = max(
            [self.most, *(x.numel() for x in results if isinstance(x, Tensor) and x.dtype == torch.float32)]
        )
        return out


def test_the_reference_widens_a_piece_at_a_time(monkeypatch):
    from videomae_kernels.tokens import align

    monkeypatch.setattr(align, "CACHED", 256)
    x, target, weight, bias = make_inputs("cpu", 2, 30, 16, dtypes=(torch.bfloat16,) * 2 + (torch.float32,))
    losses, stats = align._op(x, target, weight, bias, EPS)
    with Widened() as widened:
        align._reference(x[:, -20:], target[:, -20:], weight, bias, EPS)
        align._backward_reference(losses, x, target, stats, weight, bias, True)
    assert widened.most == 256


def test_it_is_the_squared_distance_on_the_sphere(backend):
    """Aligned rows are 0 apart, opposite ones 4, orthogonal ones 2, whatever the teacher's lengths."""
    x, weight, bias = torch.randn(5, 24, device=backend.device), *torch.randn(2, 24, device=backend.device)
    rows = F.layer_norm(x, (24,), weight, bias, EPS)
    other = torch.randn_like(rows)
    other -= (other * rows).sum(-1, keepdim=True) / rows.square().sum(-1, keepdim=True) * rows
    for target, distance in ((rows, 0.0), (rows * 300, 0.0), (-rows / 300, 4.0), (other, 2.0)):
        loss = alignment_loss(x, target, weight, bias)
        torch.testing.assert_close(loss, torch.full_like(loss, distance), rtol=0, atol=2e-6)


def test_lengths_of_teachers_do_not_count(backend):
    x, target, weight, bias = make_inputs(backend.device, 2, 5, 24)
    lengths = 2.0 ** torch.randint(-20, 20, (2, 5, 1), device=backend.device)
    first, scaled = (run(alignment_loss, (x, rows, weight, bias)) for rows in (target, target * lengths))
    for ours, wanted in zip(scaled, first, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("short", [0.0, 1e-13, 1e-6])
@pytest.mark.parametrize("which", ["target", "student"])
def test_short_rows_are_what_normalize_makes_of_them(which, short, backend):
    """Of length 0, below the floor, and above it; the student's normalised rows have that length by their bias."""
    x, target, weight, bias = make_inputs(backend.device, 5, 24)
    row = F.pad(torch.tensor([short], device=backend.device), (0, 23))
    if which == "target":
        target[1] = row
    else:
        x[1], bias = 2.0, row
    for ours, wanted in zip(
        run(alignment_loss, (x, target, weight, bias)), run(plain, (x, target, weight, bias)), strict=True
    ):
        assert wanted.isfinite().all()
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("which", [0, 1], ids=["x", "target"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(which, value, backend):
    inputs = make_inputs(backend.device, 2, 5, 24)
    inputs[which][1, 2, 3] = value
    assert all(result.isnan().any() for result in run(alignment_loss, inputs))


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
        pytest.param(lambda x: x.unflatten(1, (2, 3))[:, :, 1:], id="last_rows_of_layers"),
    ],
)
def test_any_strides(view, backend):
    x, target = (view(torch.randn(2, 6, 16, device=backend.device)) for _ in range(2))
    weight, bias = torch.randn(2, 2 * x.shape[-1], device=backend.device)[:, ::2]
    leaves = [t.requires_grad_() for t in (x.detach(), weight.detach(), bias.detach())]
    strided = alignment_loss(leaves[0], target, *leaves[1:])
    close = run(alignment_loss, [t.contiguous() for t in (x, target, weight, bias)])
    for ours, wanted in zip([strided, *torch.autograd.grad(1.75 * strided, leaves)], close, strict=True):
        torch.testing.assert_close(ours, wanted)  # compiled for other alignments, sums can have another order


def test_gradients_through_views(backend):
    x, target, weight, bias = make_inputs(backend.device, 2, 5, 24)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    last = lambda x, *parameters: alignment_loss(x[:, -2:], target[:, -2:], *parameters)  # noqa: E731
    assert_strided_gradients(last, leaves)


def test_targets_have_no_gradient(backend):
    inputs = [t.requires_grad_() for t in make_inputs(backend.device, 2, 3, 8)]
    gradients = torch.autograd.grad(alignment_loss(*inputs), inputs, allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, True, False, False]


def test_parameters_without_a_gradient_are_not_summed(backend, monkeypatch):
    from videomae_kernels.tokens import align

    calls = []
    backward = align._backward_op
    monkeypatch.setattr(align, "_backward_op", lambda *args: calls.append(args) or backward(*args))
    x, target, weight, bias = make_inputs(backend.device, 2, 5, 24)
    torch.autograd.grad(alignment_loss(x.requires_grad_(), target, weight, bias), x)
    (arguments,) = calls
    assert arguments[-1] is False and backward(*arguments)[1].numel() == 0


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8)])
def test_no_rows_have_no_mean(shape, backend):
    with pytest.raises(ValueError, match="x has no rows"):
        alignment_loss(*make_inputs(backend.device, *shape))


@pytest.mark.parametrize("which", [0, 1], ids=["x", "target"])
def test_float64_on_a_cpu(which):
    inputs = make_inputs("cpu", 2, 2, 5)
    inputs[which] = inputs[which].double()
    assert alignment_loss(*inputs).dtype == torch.float64
    inputs = [t.double() for t in inputs]
    compare(inputs, ulps=8)
    x, target, *parameters = inputs
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    assert torch.autograd.gradcheck(lambda x, *parameters: alignment_loss(x, target, *parameters), leaves)


def test_backward_keeps_x_the_target_and_four_numbers_of_each_row():
    """And the parameters, which live anyway: no normalised rows of either, no product, nothing widened."""
    x, target, weight, bias = make_inputs("cpu", 2, 5, 24, dtypes=(torch.bfloat16, torch.bfloat16, torch.float32))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        alignment_loss(leaves[0], target[:, -5:], *leaves[1:])
    given = {t.data_ptr() for t in (x, target, weight, bias)}
    assert given <= {t.data_ptr() for t in kept}
    own = [t for t in kept if t.data_ptr() not in given]
    assert sum(t.nbytes for t in own) == 4 * 4 * 2 * 5


@pytest.mark.parametrize("width", [2, *(pytest.param(width, marks=pytest.mark.slow) for width in (5, 8, 31))])
def test_the_lanes_of_a_short_row_agree(width, backend):
    """Else it is open which lane's rounding is kept: two lanes store one address, which stops a launch on PTX."""
    inputs = make_inputs(backend.device, 100, width)
    for ours, wanted in zip(run(alignment_loss, inputs), run(plain, inputs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
