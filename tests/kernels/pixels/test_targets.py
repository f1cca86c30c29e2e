import pytest
import torch

from tests.kernels import truth
from tests.kernels.cases import MEAN_STD
from videomae_kernels import patch_targets
from videomae_kernels.testing import MEMORY, assert_within_error_budget, make_clip, make_index

PATCH = (2, 4, 4)


def plain_targets(clip, index, patch, mean_std=None, normalize=True):
    """Un-normalise, cut every token out in float32, normalise per token and channel, keep the listed rows."""
    video = clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()
    if mean_std is not None:
        mean, std = (torch.tensor(x, device=clip.device)[:, None, None, None] for x in mean_std)
        video = video * std + mean
    blocks = video.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1]).unfold(4, patch[2], patch[2])
    tokens = blocks.permute(0, 2, 3, 4, 5, 6, 7, 1).flatten(4, 6).flatten(1, 3)  # B, N, pixels, C
    if normalize:
        deviation = tokens.var(dim=2, unbiased=True, keepdim=True).sqrt() + 1e-6
        tokens = (tokens - tokens.mean(dim=2, keepdim=True)) / deviation
    return torch.stack([sample[i.long()] for sample, i in zip(tokens.flatten(2), index, strict=True)])


@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
@pytest.mark.parametrize("source", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("grid", "patch", "kept"),
    [
        pytest.param((2, 3, 4), PATCH, 5, id="plain"),
        pytest.param((1, 2, 2), (2, 16, 16), 2, id="patch_16"),
        pytest.param((1, 2, 2), (2, 14, 14), 2, id="patch_14"),
        pytest.param((3, 3, 5), (1, 3, 5), 45, id="odd_all_tokens"),
        pytest.param((2, 3, 4), PATCH, 1, id="one_token"),
    ],
)
def test_targets(grid, patch, kept, source, normalize, backend):
    clip = make_clip(grid, patch, dtype=source, device=backend.device)
    index = make_index(2, kept, grid[0] * grid[1] * grid[2], device=backend.device)
    mean_std = None if source == torch.uint8 else MEAN_STD
    actual = patch_targets(clip, index, patch, denormalize=mean_std, normalize_target=normalize)
    assert actual.dtype == torch.float32
    pixels = truth.denormalized(truth.pixels(clip, index, patch), mean_std)
    plain = plain_targets(clip, index, patch, mean_std, normalize)
    assert_within_error_budget(actual, plain, truth.targets(pixels, normalize), ulps=2)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("layout", ["BCTHW", "BTHWC"])
def test_layouts_and_strides(layout, memory, backend):
    clip = make_clip((2, 3, 4), PATCH, layout=layout, memory=memory, device=backend.device)
    index = make_index(2, 6, 24, dtype=torch.int32, device=backend.device)
    expected = truth.targets(truth.pixels(clip, index, PATCH, layout)).float()
    torch.testing.assert_close(patch_targets(clip, index, PATCH, layout=layout), expected, rtol=1e-5, atol=1e-6)


def test_channel_is_fastest(backend):
    """Pixel values that spell out their own (pixel, channel) number."""
    clip = torch.zeros(1, 3, 2, 4, 4, device=backend.device)
    for c in range(3):
        clip[0, c] = torch.arange(32, device=backend.device).view(2, 4, 4) * 3 + c
    index = torch.zeros(1, 1, dtype=torch.int64, device=backend.device)
    raw = patch_targets(clip, index, PATCH, normalize_target=False)
    assert torch.equal(raw[0, 0], torch.arange(96.0, device=backend.device))


def test_a_flat_patch_has_target_zero(backend):
    """Black borders are common: the epsilon, not NaN, decides."""
    clip = torch.full((1, 3, 2, 8, 8), 17, dtype=torch.uint8, device=backend.device)
    target = patch_targets(clip, make_index(1, 4, 4, device=backend.device), PATCH)
    assert target.abs().max() < 0.5  # rounding noise of the mean, over 1e-6
    assert target.isfinite().all()


def test_normalisation_before_does_not_matter_but_for_the_epsilon(backend):
    clip = make_clip((2, 3, 4), PATCH, device=backend.device)
    index = make_index(2, 6, 24, device=backend.device)
    mean, std = (torch.tensor(x, device=backend.device)[:, None, None, None] for x in MEAN_STD)
    normalized = (clip / 255 - mean) / std
    torch.testing.assert_close(
        patch_targets(normalized, index, PATCH, denormalize=MEAN_STD),
        patch_targets(clip, index, PATCH),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_float_clip_gets_no_gradient(backend):
    clip = make_clip((2, 3, 4), PATCH, dtype=torch.float32, device=backend.device).requires_grad_()
    assert not patch_targets(clip, make_index(2, 6, 24, device=backend.device), PATCH).requires_grad
