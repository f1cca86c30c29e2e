"""The target and the loss of the published VideoMAE V2 training loop, over the whole clip."""

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def published_target(clip: Tensor, patch_size: tuple[int, int, int], normalize_target: bool = True) -> Tensor:
    """Targets (B, N, P), channel fastest, of an ImageNet-normalised clip (B, 3, T, H, W)."""
    tau, ph, pw = patch_size
    batch, channels, frames, height, width = clip.shape
    with torch.no_grad():
        mean = torch.as_tensor(IMAGENET_MEAN, dtype=clip.dtype).to(clip.device)[None, :, None, None, None]
        std = torch.as_tensor(IMAGENET_STD, dtype=clip.dtype).to(clip.device)[None, :, None, None, None]
        pixels = clip * std + mean
        grid = pixels.view(batch, channels, frames // tau, tau, height // ph, ph, width // pw, pw)
        tokens = grid.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, tau * ph * pw, channels)
        if normalize_target:
            deviation = tokens.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
            tokens = (tokens - tokens.mean(dim=-2, keepdim=True)) / deviation
        return tokens.flatten(2)


def published_loss(
    predictions: Tensor,
    clip: Tensor,
    mask: Tensor,
    decode_mask: Tensor,
    patch_size: tuple[int, int, int],
    normalize_target: bool = True,
) -> Tensor:
    """Mean squared error over the rows both decoded and hidden from the encoder; arguments as the model's.

    predictions (B, M, P); the other decoded rows are predicted and weighted zero, as published.
    """
    batch = predictions.shape[0]
    target = published_target(clip, patch_size, normalize_target)
    labels = target[~decode_mask].reshape(batch, -1, target.shape[-1])
    rows = ((predictions - labels) ** 2).mean(dim=-1)
    weight = mask[~decode_mask].reshape(batch, -1)
    return (rows * weight).sum() / weight.sum()
