import pytest
import torch

from tests.kernels import truth
from tests.kernels.cases import MEAN_STD
from videomae_kernels import masked_patch_loss, patch_targets
from videomae_kernels.testing import MEMORY, assert_within_error_budget, make_clip, make_index

PATCH = (2, 4, 4)
GRID = (2, 3, 4)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def make_inputs(device, *, batch=2, kept=6, grid=GRID, patch=PATCH, dtype=torch.float32, source=torch.uint8):
    clip = make_clip(grid, patch, batch=batch, dtype=source, device=device)
    index = make_index(batch, kept, grid[0] * grid[1] * grid[2], device=device)
    pred = torch.randn(batch, kept, 3 * patch[0] * patch[1] * patch[2], device=device).to(dtype)
    return pred, clip, index


def loss_of(pred, target, weight=None):
    rows = (pred - target).square().mean(-1)
    return rows.mean() if weight is None else (weight * rows).sum() / weight.sum()


@pytest.mark.parametrize("weighted", [False, True], ids=["mean", "weighted"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize("source", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", FLOATS)
def test_loss_and_gradient(dtype, source, normalize, weighted, backend):
    pred, clip, index = make_inputs(backend.device, dtype=dtype, source=source)
    pred.requires_grad_()
    mean_std = None if source == torch.uint8 else MEAN_STD
    weight = (torch.arange(12, device=backend.device).view(2, 6) % 5).float() if weighted else None
    options = {"denormalize": mean_std, "normalize_target": normalize}
    loss = masked_patch_loss(pred, clip, index, PATCH, weight=weight, **options)
    (gradient,) = torch.autograd.grad(loss, pred)
    assert loss.dtype == torch.float32
    assert loss.ndim == 0

    target = truth.targets(truth.denormalized(truth.pixels(clip, index, PATCH), mean_std), normalize)
    exact_pred = pred.detach().double().requires_grad_()
    exact = loss_of(exact_pred, target, weight)
    plain_pred = pred.detach().requires_grad_()
    plain = loss_of(plain_pred.float(), patch_targets(clip, index, PATCH, **options), weight)
    assert_within_error_budget(loss, plain, exact, ulps=4)
    plain_gradient, exact_gradient = (
        torch.autograd.grad(plain, plain_pred)[0],
        torch.autograd.grad(exact, exact_pred)[0],
    )
    assert_within_error_budget(gradient, plain_gradient, exact_gradient, ulps=2)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"batch": 1, "kept": 1}, id="one_row"),
        pytest.param({"kept": 24}, id="all_tokens"),
        pytest.param({"batch": 3, "kept": 5}, id="rows_not_a_multiple_of_a_program"),
        pytest.param({"grid": (1, 2, 2), "patch": (2, 16, 16), "kept": 2}, id="patch_16"),
        pytest.param({"grid": (1, 2, 2), "patch": (2, 14, 14), "kept": 2}, id="patch_14"),
        pytest.param({"grid": (3, 3, 5), "patch": (1, 3, 5), "kept": 7}, id="odd"),
    ],
)
def test_shapes(shape, backend):
    pred, clip, index = make_inputs(backend.device, **shape)
    patch = shape.get("patch", (1, 3, 5) if shape.get("grid") == (3, 3, 5) else PATCH)
    expected = loss_of(pred.double(), truth.targets(truth.pixels(clip, index, patch)))
    actual = masked_patch_loss(pred.requires_grad_(), clip, index.int(), patch)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)
    actual.backward()
    assert pred.grad.isfinite().all()


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_layouts_and_strides_of_the_clip(layout, memory, backend):
    pred, _, index = make_inputs(backend.device)
    clip = make_clip(GRID, PATCH, layout=layout, memory=memory, device=backend.device)
    expected = loss_of(pred.double(), truth.targets(truth.pixels(clip, index, PATCH, layout)))
    actual = masked_patch_loss(pred, clip, index, PATCH, layout=layout)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: torch.cat([x, x], 1)[:, 6:], id="last_rows"),  # the loss rows of the decoder's output
        pytest.param(lambda x: x.mT.contiguous().mT, id="columns_strided"),
        pytest.param(lambda x: x[:1].expand(2, -1, -1), id="expanded_batch"),
        pytest.param(lambda x: x[:, :, :1].expand(-1, -1, 96), id="expanded_columns"),
    ],
)
def test_strides_of_the_predictions(view, backend):
    pred, clip, index = make_inputs(backend.device)
    strided = view(pred).detach().requires_grad_()
    contiguous = strided.detach().contiguous().requires_grad_()
    losses = [masked_patch_loss(x, clip, index, PATCH) for x in (strided, contiguous)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (strided, contiguous), strict=True)]
    torch.testing.assert_close(*gradients)


def test_the_gradient_scales_with_the_incoming_one(backend):
    """A loss scaler multiplies the loss before backward."""
    pred, clip, index = make_inputs(backend.device, dtype=torch.float16)
    pred.requires_grad_()
    (plain,) = torch.autograd.grad(masked_patch_loss(pred, clip, index, PATCH), pred)
    (scaled,) = torch.autograd.grad(masked_patch_loss(pred, clip, index, PATCH) * 1024, pred)
    torch.testing.assert_close(scaled.float() / 1024, plain.float(), rtol=1e-3, atol=1e-6)


def test_a_row_of_weight_zero_does_not_count(backend):
    pred, clip, index = make_inputs(backend.device)
    pred.requires_grad_()
    weight = torch.ones(2, 6, device=backend.device)
    weight[:, 0] = 0
    loss = masked_patch_loss(pred, clip, index, PATCH, weight=weight)
    torch.testing.assert_close(loss, masked_patch_loss(pred[:, 1:], clip, index[:, 1:], PATCH))
    (gradient,) = torch.autograd.grad(loss, pred)
    assert not gradient[:, 0].any()
    assert gradient[:, 1:].any()


def test_a_perfect_prediction_costs_nothing(backend):
    _, clip, index = make_inputs(backend.device)
    target = patch_targets(clip, index, PATCH).requires_grad_()
    loss = masked_patch_loss(target, clip, index, PATCH)
    assert loss < 1e-10
    loss.backward()
    assert target.grad.abs().max() < 1e-6


def test_float64_predictions_of_a_uint8_clip_on_cpu():
    pred, clip, index = make_inputs("cpu", dtype=torch.float64)
    expected = loss_of(pred, truth.targets(truth.pixels(clip, index, PATCH)))
    torch.testing.assert_close(masked_patch_loss(pred, clip, index, PATCH).double(), expected, rtol=1e-6, atol=0)
