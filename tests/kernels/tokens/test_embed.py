import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels import truth
from tests.kernels.cases import MEAN_STD
from videomae_kernels import embed_tokens
from videomae_kernels.testing import assert_strided_gradients, assert_within_error_budget, make_clip, make_index

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def make_inputs(device, *, grid=(2, 3, 4), patch=(2, 4, 4), kept=5, batch=2, width=7, source=None, dtype=torch.float32):
    clip = make_clip(grid, patch, batch=batch, dtype=source or dtype, device=device)
    tokens = grid[0] * grid[1] * grid[2]
    index = make_index(batch, kept, tokens, device=device)
    pixels = 3 * patch[0] * patch[1] * patch[2]
    weight = (torch.randn(width, 3, *patch, device=device) / pixels**0.5).to(dtype)
    bias, position = torch.randn(width, device=device).to(dtype), torch.randn(tokens, width, device=device).to(dtype)
    return clip, index, weight, bias, position


def exact(clip, index, weight, bias, position, mean_std=None):
    """Pixel by pixel, from the definition."""
    rows = truth.normalized(truth.pixels(clip, index, weight.shape[2:]), mean_std)
    products = torch.einsum("bkcijl,dcijl->bkd", rows, weight.double())
    return products + bias.double() + position.double()[index.long()]


def conv3d(clip, index, weight, bias, position, mean_std=None):
    """The published way: embed everything, add the table, keep the visible rows."""
    video = clip / 255 if clip.dtype == torch.uint8 else clip
    if mean_std is not None:
        mean, std = (torch.tensor(x, device=clip.device)[:, None, None, None] for x in mean_std)
        video = (video - mean) / std
    tokens = F.conv3d(video.to(weight.dtype), weight, bias, stride=weight.shape[2:]).flatten(2).mT + position
    return torch.stack([sample[i.long()] for sample, i in zip(tokens, index, strict=True)])


@pytest.mark.parametrize("normalize", [None, MEAN_STD], ids=["raw", "normalized"])
@pytest.mark.parametrize("source", [torch.uint8, torch.float32, None], ids=["uint8", "float32", "same"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_equals_the_convolution_at_the_kept_tokens(dtype, source, normalize, backend):
    inputs = make_inputs(backend.device, source=source, dtype=dtype)
    out = embed_tokens(*inputs, normalize=normalize)
    assert out.dtype == dtype
    assert_within_error_budget(out, conv3d(*inputs, normalize), exact(*inputs, normalize), ulps=2)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"batch": 1, "kept": 1}, id="one_token"),
        pytest.param({"kept": 24}, id="all_tokens"),
        pytest.param({"grid": (1, 2, 3), "patch": (2, 16, 16), "kept": 3}, id="patch_16"),
        pytest.param({"grid": (2, 2, 1), "patch": (2, 14, 14), "kept": 3}, id="patch_14"),
        pytest.param({"grid": (3, 3, 5), "patch": (1, 3, 2), "width": 1}, id="odd_grid_width_1"),
    ],
)
def test_shapes(shape, backend):
    inputs = make_inputs(backend.device, **shape)
    assert_within_error_budget(embed_tokens(*inputs), conv3d(*inputs), exact(*inputs), ulps=4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients(dtype, backend):
    inputs = make_inputs(backend.device, dtype=dtype, batch=3, kept=9)
    gradient = torch.randn(3, 9, 7, device=backend.device).to(dtype)

    def gradients(function, double=False):
        leaves = [x.double() if double and x.is_floating_point() else x.clone() for x in inputs]
        leaves = [x.requires_grad_(x.is_floating_point()) for x in leaves]
        wanted = [x for x in leaves if x.requires_grad]
        return torch.autograd.grad(function(*leaves), wanted, gradient.to(wanted[0].dtype))

    for ours, plain, wanted in zip(gradients(embed_tokens), gradients(conv3d), gradients(exact, True), strict=True):
        assert_within_error_budget(ours, plain, wanted, ulps=4)


def test_gradients_with_strided_grads_and_a_uint8_clip(backend):
    clip, index, *parameters = make_inputs(backend.device, source=torch.uint8)
    assert_strided_gradients(
        lambda w, b, p: embed_tokens(clip, index, w, b, p, normalize=MEAN_STD),
        [x.requires_grad_() for x in parameters],
    )


def test_a_fixed_table_gets_no_gradient(backend):
    clip, index, weight, bias, position = make_inputs(backend.device)
    embed_tokens(clip, index, weight.requires_grad_(), bias, position).sum().backward()
    assert weight.grad is not None
    assert position.grad is None


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that anything makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.elements = max([self.elements, *(x.numel() for x in made if isinstance(x, torch.Tensor))])
        return out


def test_a_learned_table_is_not_repeated_for_each_sample(backend):
    """Backward sums the gradient of the table over the batch at once."""
    clip, index, weight, bias, position = make_inputs(backend.device, batch=9, kept=2, width=64, source=torch.uint8)
    out = embed_tokens(clip, index, weight, bias, position.requires_grad_())
    with Largest() as largest:
        out.sum().backward()
    expected = torch.zeros_like(position).index_add_(0, index.flatten().long(), torch.ones_like(out).flatten(0, 1))
    assert torch.equal(position.grad, expected)
    assert largest.elements <= max(position.numel(), out.numel())


@pytest.mark.parametrize("memory", ["channels_last", "sliced", "expanded"])
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_layouts_and_strides(layout, memory, backend):
    _, index, *parameters = make_inputs(backend.device)
    clip = make_clip((2, 3, 4), (2, 4, 4), layout=layout, memory=memory, device=backend.device)
    as_bcthw = clip.permute([layout.index(d) for d in "BCTHW"]).contiguous()
    expected = embed_tokens(as_bcthw, index.int(), *parameters)
    assert torch.equal(embed_tokens(clip, index, *parameters, layout=layout), expected)


def test_autocast_computes_the_product_in_bfloat16_only(backend):
    clip, index, *parameters = make_inputs(backend.device, source=torch.uint8)
    leaves = [x.requires_grad_() for x in parameters]
    with torch.autocast(backend.device.type, torch.bfloat16):
        out = embed_tokens(clip, index, *leaves, normalize=MEAN_STD)
        plain = conv3d(clip, index, *(x.detach() for x in leaves), MEAN_STD)
    assert out.dtype == torch.bfloat16
    assert_within_error_budget(out, plain.bfloat16(), exact(clip, index, *leaves, MEAN_STD), ulps=2)
    out.sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in leaves)


def test_the_gradient_of_a_table_is_summed_in_its_dtype() -> None:
    """Under autocast: a sum of 600 ones in bfloat16 stops at 256."""
    batch = 600
    position = torch.zeros(2, 4, requires_grad=True)
    clip, index = torch.zeros(batch, 1, 1, 1, 2), torch.zeros(batch, 1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        out = embed_tokens(clip, index, torch.zeros(4, 1, 1, 1, 1), torch.zeros(4), position)
    assert out.dtype == torch.bfloat16
    out.backward(torch.ones_like(out))
    assert position.grad is not None and position.grad.tolist() == [[batch] * 4, [0] * 4]
