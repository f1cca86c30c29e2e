import pytest
import torch

from tests.kernels import truth
from tests.kernels.cases import MEAN_STD
from videomae_kernels import tube_mask_gather
from videomae_kernels.testing import MEMORY, assert_within_error_budget, make_clip, make_index

GRIDS = [  # grid, patch, kept
    pytest.param((2, 3, 4), (2, 4, 4), 5, id="plain"),
    pytest.param((2, 2, 2), (2, 16, 16), 3, id="patch_16"),
    pytest.param((1, 2, 3), (2, 14, 14), 4, id="patch_14"),
    pytest.param((3, 3, 5), (1, 3, 5), 7, id="odd_everything"),
    pytest.param((2, 3, 4), (2, 4, 4), 1, id="one_token"),
    pytest.param((2, 3, 2), (2, 4, 4), 12, id="all_tokens"),
    pytest.param((2, 2, 3), (4, 2, 6), 5, id="four_frames_oblong"),
]


def plain_rows(clip, index, patch, dtype, mean_std=None):
    """unfold the whole clip in `dtype`, keep the listed rows: what PyTorch users write."""
    video = clip.to(dtype) / 255 if clip.dtype == torch.uint8 else clip.to(dtype)
    if mean_std is not None:
        mean, std = (torch.tensor(x, device=clip.device).to(dtype)[:, None, None, None] for x in mean_std)
        video = (video - mean) / std
    blocks = video.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1]).unfold(4, patch[2], patch[2])
    rows = blocks.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(1, 3)
    return torch.stack([row[i.long()] for row, i in zip(rows, index, strict=True)])


@pytest.mark.parametrize("source", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("grid", "patch", "kept"), GRIDS)
def test_pixels_in_the_order_of_the_patch_embedding(grid, patch, kept, source, backend):
    clip = make_clip(grid, patch, dtype=source, device=backend.device)
    index = make_index(2, kept, grid[0] * grid[1] * grid[2], device=backend.device)
    rows = tube_mask_gather(clip, index, patch)
    expected = truth.pixels(clip, index, patch).flatten(2)
    assert rows.is_contiguous()
    assert_within_error_budget(rows, plain_rows(clip, index, patch, rows.dtype), expected)
    if source != torch.uint8:
        assert torch.equal(rows.double(), expected)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("source", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_normalisation_and_result_dtype(source, dtype, backend):
    patch = (2, 4, 4)
    clip = make_clip((2, 3, 4), patch, dtype=source, device=backend.device)
    index = make_index(2, 6, 24, device=backend.device)
    rows = tube_mask_gather(clip, index, patch, normalize=MEAN_STD, dtype=dtype)
    assert rows.dtype == (dtype or (torch.float32 if source == torch.uint8 else source))
    expected = truth.normalized(truth.pixels(clip, index, patch), MEAN_STD).flatten(2)
    assert_within_error_budget(rows, plain_rows(clip, index, patch, rows.dtype, MEAN_STD), expected)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC", "BTCHW", "TBHWC"])
def test_layouts_and_strides(layout, memory, backend):
    patch = (2, 4, 4)
    clip = make_clip((2, 3, 4), patch, layout=layout, memory=memory, device=backend.device)
    index = make_index(2, 6, 24, dtype=torch.int32, device=backend.device)
    expected = truth.pixels(clip, index, patch, layout).flatten(2).float()
    torch.testing.assert_close(tube_mask_gather(clip, index, patch, layout=layout), expected, rtol=1e-6, atol=0)


def test_other_numbers_of_channels(backend):
    for channels, normalize in ((1, ((0.5,), (0.25,))), (5, None)):
        clip = make_clip((2, 2, 2), (2, 4, 4), channels=channels, dtype=torch.float32, device=backend.device)
        index = make_index(2, 3, 8, device=backend.device)
        expected = truth.normalized(truth.pixels(clip, index, (2, 4, 4)), normalize).flatten(2).float()
        torch.testing.assert_close(tube_mask_gather(clip, index, (2, 4, 4), normalize=normalize), expected)


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_the_gradient_goes_back_to_the_kept_pixels(layout, memory, backend):
    patch = (2, 4, 4)
    clip = make_clip((2, 3, 4), patch, dtype=torch.float32, layout=layout, memory=memory, device=backend.device)
    index = make_index(2, 6, 24, device=backend.device)
    gradient = torch.randn(2, 6, 96, device=backend.device)

    ours = clip.detach().requires_grad_()
    tube_mask_gather(ours, index, patch, layout=layout, normalize=MEAN_STD).backward(gradient)
    exact = clip.detach().double().requires_grad_()
    rows = truth.normalized(truth.pixels(exact, index, patch, layout), MEAN_STD).flatten(2)
    rows.backward(gradient.double())
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("source", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_is_as_exact_as_plain_pytorch(source, dtype, backend):
    """Rows in a short dtype, made from a longer one: the factor 1/std is applied in float32, then rounded once."""
    patch = (2, 4, 4)
    clip = make_clip((2, 3, 4), patch, dtype=source, device=backend.device)
    index = make_index(2, 6, 24, device=backend.device)
    gradient = torch.randn(2, 6, 96, device=backend.device).to(dtype)

    def grad_of(clip, rows_of, gradient):
        clip = clip.detach().requires_grad_()
        return torch.autograd.grad(rows_of(clip), clip, gradient)[0]

    ours = grad_of(clip, lambda c: tube_mask_gather(c, index, patch, normalize=MEAN_STD, dtype=dtype), gradient)
    plain = grad_of(clip, lambda c: plain_rows(c, index, patch, source, MEAN_STD).to(dtype), gradient)
    exact = grad_of(
        clip.double(),
        lambda c: truth.normalized(truth.pixels(c, index, patch), MEAN_STD).flatten(2),
        gradient.double(),
    )
    assert_within_error_budget(ours, plain, exact)
