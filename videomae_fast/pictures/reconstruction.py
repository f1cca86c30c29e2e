"""The picture of a trained model at work: original | what the encoder sees | reconstruction."""

import math
from pathlib import Path

import torch
from torch import Tensor

from videomae_kernels import CroppedClips, gather_tokens, masked_token_scatter, patch_targets

from ..interop import load_published, load_weights
from ..masks import MaskPlan
from ..models import VideoMAEForPretraining
from ..recipes.pretrain import PretrainConfig
from .canvas import to_image

FRAMES_SHOWN = 8
GREY = 0.5


def save_reconstruction(config: PretrainConfig, weights: Path, path: Path) -> None:
    """Reconstruct the first clip of the run `config` with the weights in a file, and write a PNG.

    Every token that the encoder does not see is predicted, whatever the decoder mask of the run was.
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
    """Original, visible part on grey, and reconstruction of the first clip, each (T, H, W, C) in [0, 1].

    clip uint8 (B, T, H, W, C) or cropped; predictions (B, R, P) of normalised targets. They say nothing about a token's
    mean and contrast, so the original's are used, as in the published visualisation (run_mae_vis.py).
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
    """Rows (B, K, P) of the tokens `index` (B, K) among all, (B, num_tokens, P); the others are grey."""
    return masked_token_scatter(rows, index, num_tokens, rows.new_full(rows.shape[2:], GREY))


def to_frames(rows: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Token rows (N, P), channel fastest, to frames (T, H, W, C)."""
    blocks = rows.view(*grid, *patch, -1).permute(0, 3, 1, 4, 2, 5, 6)
    return blocks.flatten(4, 5).flatten(2, 3).flatten(0, 1)


def _draw(rows: list[Tensor], path: Path) -> None:
    steps = torch.linspace(0, rows[0].shape[0] - 1, min(FRAMES_SHOWN, rows[0].shape[0])).round().long()
    strips = [torch.cat(list(row[steps]), dim=1) for row in rows]
    to_image(torch.cat(strips, dim=0)).save(path)
