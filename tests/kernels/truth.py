"""The mathematics of the ops in float64, written from their formulas and from nothing in the package."""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_position(index: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(t, h, w) of tokens numbered with w fastest."""
    index = index.long()
    return index // (grid[1] * grid[2]), index // grid[2] % grid[1], index % grid[2]


def pixels(clip: Tensor, index: Tensor, patch: Sequence[int], layout: str = "BCTHW") -> Tensor:
    """(B, K, C, τ, p, p) float64 pixels of the listed tokens; uint8 is brought to [0, 1]."""
    video = torch.einsum(f"{layout.lower()}->bcthw", clip.double())
    if clip.dtype == torch.uint8:
        video = video / 255
    grid = [size // side for size, side in zip(video.shape[2:], patch, strict=True)]
    samples = []
    for b in range(index.shape[0]):
        tokens = []
        for t, h, w in zip(*(x.tolist() for x in token_position(index[b], grid)), strict=True):
            start = (t * patch[0], h * patch[1], w * patch[2])
            box = tuple(slice(first, first + size) for first, size in zip(start, patch, strict=True))
            tokens.append(video[(b, slice(None), *box)])
        samples.append(torch.stack(tokens))
    return torch.stack(samples)


def channels(values: Sequence[float], like: Tensor) -> Tensor:
    """Per-channel values against (…, C, τ, p, p)."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None, None, None]


def normalized(value: Tensor, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    if mean_std is None:
        return value
    return (value - channels(mean_std[0], value)) / channels(mean_std[1], value)


def denormalized(value: Tensor, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    if mean_std is None:
        return value
    return value * channels(mean_std[1], value) + channels(mean_std[0], value)


def targets(value: Tensor, normalize: bool = True) -> Tensor:
    """(B, K, P) channel-fastest targets from (B, K, C, τ, p, p) pixels (published `train_one_epoch`)."""
    columns = value.flatten(3).mT  # B, K, pixels, C
    if normalize:
        mean = columns.mean(2, keepdim=True)
        variance = (columns - mean).square().sum(2, keepdim=True) / (columns.shape[2] - 1)
        columns = (columns - mean) / (variance.sqrt() + 1e-6)
    return columns.flatten(2)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Rows of x normalised, in float64."""
    x = x.double()
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double() + bias.double()


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """z · Φ(z) of z = x + bias, in float64."""
    value = x.double() + bias.double()
    return value * torch.special.ndtr(value)
