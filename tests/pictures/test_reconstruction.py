"""The picture shows the original, the visible part and the reconstruction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.recipes import tiny
from videomae_fast.interop import save_published
from videomae_fast.masks import MaskPlan, make_masks
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.models.config import CONFIGS
from videomae_fast.pictures.reconstruction import GREY, reconstruct, save_reconstruction
from videomae_kernels import patch_targets

PATCH, GRID = (2, 16, 16), (4, 3, 3)
SIZE = (8, 48, 48)


@pytest.fixture
def clip() -> Tensor:
    """Two clips of noise; some tokens of each have one colour."""
    clip = torch.randint(0, 256, (2, *SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clip[:, :, :16, :16] = torch.tensor([200, 0, 255], dtype=torch.uint8)
    clip[:, :2, 16:32] = 17
    return clip


def _plan(decoder: str) -> MaskPlan:
    return make_masks(torch.tensor([5, 6]), GRID, mask_ratio=0.7, decoder_mask=decoder)


def _pixels_of(index: Tensor) -> Tensor:
    """(T, H, W) bool: the pixels of the tokens `index`, written out token by token."""
    shown = torch.zeros(SIZE, dtype=torch.bool)
    for token in index.tolist():
        t, h, w = token // 9, token // 3 % 3, token % 3
        shown[2 * t : 2 * t + 2, 16 * h : 16 * h + 16, 16 * w : 16 * w + 16] = True
    return shown


@pytest.mark.parametrize("decoder", ["none", "running_cell", "random"])
def test_perfect_predictions_give_the_original(decoder: str, clip: Tensor) -> None:
    plan = _plan(decoder)
    targets = patch_targets(clip, plan.predicted, PATCH, layout="BTHWC")
    original, masked, shown = reconstruct(clip, targets, plan, PATCH)
    visible, predicted = _pixels_of(plan.visible[0]), _pixels_of(plan.predicted[0])
    assert original.shape == masked.shape == shown.shape == (*SIZE, 3)
    torch.testing.assert_close(original, clip[0] / 255, rtol=0, atol=1e-6)
    assert torch.equal(masked[visible], original[visible])
    assert (masked[~visible] == GREY).all()
    assert torch.equal(shown[visible], original[visible])
    assert (shown - original)[predicted].abs().max() < 1e-3
    assert (shown[~visible & ~predicted] == GREY).all()
    assert (decoder == "none") == bool((visible | predicted).all())


def test_wrong_predictions_show_only_where_tokens_are_predicted(clip: Tensor) -> None:
    plan = _plan("none")
    targets = patch_targets(clip, plan.predicted, PATCH, layout="BTHWC")
    original, _, shown = reconstruct(clip, -targets, plan, PATCH)
    different = (shown - original).abs().amax(dim=-1) > 1e-3
    assert different.float().mean() > 0.3
    assert not (different & _pixels_of(plan.visible[0])).any()
    assert not different[:, :16, :16].any()  # one colour: the mean is all there is


def test_predictions_of_zero_give_each_tokens_mean(clip: Tensor) -> None:
    plan = _plan("none")
    predictions = torch.zeros(2, plan.predicted.shape[1], 3 * 512)
    original, _, shown = reconstruct(clip, predictions, plan, PATCH)
    token = int(plan.predicted[0, -1])
    of_token = _pixels_of(torch.tensor([token]))
    torch.testing.assert_close(shown[of_token], original[of_token].mean(0).expand(512, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder_mask", ["running_cell", "none"])
def test_picture_of_a_run(decoder_mask: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of frames; the first is the first video's, and what the encoder sees is in all of them."""
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)
    videos = tiny.write_videos(tmp_path / "videos", 2)
    config = tiny.settings(videos, tmp_path, num_frames=10, decoder_mask=decoder_mask)
    if decoder_mask == "running_cell":
        config = tiny.settings(videos, tmp_path, num_frames=16, image_size=64)
    weights = tmp_path / "weights.pth"
    save_published(VideoMAEForPretraining(config.model_config()), weights)
    save_reconstruction(config, weights, tmp_path / "picture.png")
    side = config.data.image_size
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (8 * side, 3 * side)
        pixels = np.asarray(picture.convert("RGB")).reshape(3, side, 8 * side, 3)
    original, masked, shown = pixels
    grey = (masked == 128).all(axis=-1)
    assert 0.7 < grey.mean() < 1
    assert (masked[~grey] == original[~grey]).all()
    assert (shown[~grey] == original[~grey]).all()
    assert (shown != 128).any(axis=-1).mean() > 0.98  # everything hidden is predicted, whatever the run decoded
