"""The reconstruction picture of a trained model: original, visible tokens, reconstruction."""

import math
from pathlib import Path

import torch
from torch import Tensor

from videomae_kernels import CroppedClips, gather_tokens, masked_token_scatter, patch_targets

from ..interop import load_published, load_weights
from ..masks import MaskPlan
from ..models import VideoMAEForPretraining
from ..recipes.pretrain import PretrainConfig
from .canvas import save_picture, to_image

FRAMES_SHOWN = 8
GREY = 0.5


def save_reconstruction(config: PretrainConfig, weights: Path, path: Path) -> None:
    """Reconstruct the first clip of a run, and draw it below the original.

    The model predicts every token that the encoder does not see, whatever the decoder mask of the run was.

    Args:
        config: the run.
        weights: a file of weights in the published layout.
        path: file of the picture; its suffix names the format, for example .png.

    Raises:
        ValueError: the weights do not fit the model of the run.
        ImportError: Pillow is missing.
    """
    model = VideoMAEForPretraining(config.model_config()).eval()
    load_weights(model, load_published(weights))
    config = config.with_options(crops_per_video=1, decoder_mask="none")
    sample = config.data.dataset(config.run.seed)[(0, 0)]
    plan = config.masks.plan(sample.sample, model.config.grid, config.run.seed)
    with torch.no_grad():
        predictions = model.predict(sample.clips, plan)
    rows = reconstruct(sample.clips, predictions, plan, model.config.patch)
    _draw(rows, path)


def reconstruct(
    clip: Tensor | CroppedClips, predictions: Tensor, plan: MaskPlan, patch: tuple[int, int, int]
) -> list[Tensor]:
    """Turn predictions of normalised targets into frames.

    Normalised targets lack the mean and contrast of a token, so the original supplies both.

    Args:
        clip: (B, T, H, W, C) uint8, or B cropped clips.
        predictions: (B, R, P) for the tokens `plan.predicted`.
        plan: the masks of the clips.
        patch: (frames, height, width) of a token, in pixels.

    Returns:
        Original, visible tokens on grey, and reconstruction of the first clip: three tensors (T, H, W, C) in [0, 1].

    References:
        run_mae_vis.py of VideoMAE also takes mean and contrast from the original.
    """
    visible, predicted = plan.visible[:1], plan.predicted[:1]
    everything = torch.arange(plan.num_tokens).expand(clip.shape[0], -1)
    pixels = patch_targets(clip, everything, patch, layout="BTHWC", normalize_target=False)[:1]
    by_channel = (math.prod(patch), -1)
    own = gather_tokens(pixels, predicted).unflatten(2, by_channel)
    deviation, mean = torch.std_mean(own, dim=2, keepdim=True)
    filled = (predictions[:1].float().unflatten(2, by_channel) * deviation + mean).flatten(2)
    seen = on_grey(gather_tokens(pixels, visible), visible, plan.num_tokens)
    shown = on_grey(filled, predicted, plan.num_tokens)
    shown[0, visible[0]] = pixels[0, visible[0]]
    return [to_frames(rows[0], plan.grid, patch).clamp(0, 1) for rows in (pixels, seen, shown)]


def on_grey(rows: Tensor, index: Tensor, num_tokens: int) -> Tensor:
    """Scatter rows (B, K, P) of the tokens `index` (B, K) into (B, num_tokens, P); the other tokens are grey."""
    return masked_token_scatter(rows, index, num_tokens, rows.new_full(rows.shape[2:], GREY))


def to_frames(rows: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Assemble frames (T, H, W, C) from token rows (N, P), channel fastest."""
    blocks = rows.view(*grid, *patch, -1).permute(0, 3, 1, 4, 2, 5, 6)
    return blocks.flatten(4, 5).flatten(2, 3).flatten(0, 1)


def _draw(rows: list[Tensor], path: Path) -> None:
    steps = torch.linspace(0, rows[0].shape[0] - 1, min(FRAMES_SHOWN, rows[0].shape[0])).round().long()
    strips = [torch.cat(list(row[steps]), dim=1) for row in rows]
    save_picture(to_image(torch.cat(strips, dim=0)), path)
