"""What the pixel ops share: dimension order, token grid, per-channel scaling and the pixels of listed tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DIMENSIONS = "BCTHW"
EPS = 1e-6  # added to the standard deviation of targets, as published
ChannelStats = tuple[Sequence[float], Sequence[float]]


def as_bcthw(clip: Tensor, layout: str, patch_size: Sequence[int]) -> Tensor:
    """View `clip` as (B, C, T, H, W); errors name `clip`, `layout` or `patch_size`."""
    if sorted(layout) != sorted(DIMENSIONS):
        raise ValueError(f"layout must be a permutation of '{DIMENSIONS}' such as 'BTHWC', got '{layout}'")
    if clip.ndim != 5:
        raise ValueError(f"clip must have 5 dimensions ({layout}), got shape {tuple(clip.shape)}")
    if not (clip.is_floating_point() or clip.dtype == torch.uint8):
        raise TypeError(f"clip must be uint8 or floating, got {clip.dtype}")
    clip = clip.permute([layout.index(d) for d in DIMENSIONS])
    check_patch_size(patch_size, clip.shape[2:])
    return clip


def check_patch_size(patch_size: Sequence[int], size: Sequence[int]) -> list[int]:
    """`patch_size` (τ, p, p) as ints that divide a clip's `size` (T, H, W)."""
    if len(patch_size) != 3 or any(int(n) < 1 for n in patch_size):
        raise ValueError(f"patch_size must be three positive ints (frames, height, width), got {tuple(patch_size)}")
    for name, side, patch in zip("THW", size, patch_size, strict=True):
        if side % patch or side == 0:
            raise ValueError(f"clip has {name}={side}, which patch_size {tuple(patch_size)} does not divide")
    return [int(n) for n in patch_size]


def num_tokens(clip: Any, patch_size: Sequence[int]) -> int:
    """Tokens of a (B, C, T, H, W) clip, tensor or cropped."""
    t, h, w = (size // patch for size, patch in zip(clip.shape[2:], patch_size, strict=True))
    return t * h * w


def channel_affine(
    clip: Any, stats: ChannelStats | None, name: str, *, inverse: bool
) -> tuple[list[float], list[float]]:
    """Per-channel (scale, shift) of a clip, tensor or cropped, so that pixel·scale + shift is the wanted value.

    uint8 pixels count in [0, 255] and are brought to [0, 1] first. `stats` = (mean, std): (x − mean) / std, or
    with `inverse` x·std + mean, which undoes a normalisation that a floating clip went through.
    """
    channels = clip.shape[1]
    unit = 1 / 255 if clip.dtype == torch.uint8 else 1.0
    if stats is None:
        return [unit] * channels, [0.0] * channels
    mean, std = stats
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"{name} needs a mean and a std for each of {channels} channels, got {len(mean)} and {len(std)}"
        )
    if any(s <= 0 for s in std):
        raise ValueError(f"{name} needs positive standard deviations, got {tuple(std)}")
    if inverse:
        if clip.dtype == torch.uint8:
            raise ValueError(f"{name} undoes a normalisation, which a uint8 clip cannot have; leave it out")
        return [float(s) for s in std], [float(m) for m in mean]
    return [unit / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _token_blocks(clip: Tensor, index: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A view (B, T', H', W', C, τ, p, p) of a (B, C, T, H, W) clip, and the coordinates of the listed tokens in it."""
    blocks = clip.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    blocks = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    height, width = blocks.shape[2:4]
    sample = torch.arange(index.shape[0], device=index.device)[:, None]
    return blocks, (sample, index // (height * width), index // width % height, index % width)


def token_pixels(clip: Tensor, index: Tensor, patch: Sequence[int]) -> Tensor:
    """Pixels of the listed tokens of a (B, C, T, H, W) clip: (B, K, C, τ, p, p), in the clip's dtype."""
    blocks, where = _token_blocks(clip, index, patch)
    return blocks[where]


def place_token_pixels(clip: Tensor, index: Tensor, patch: Sequence[int], pixels: Tensor) -> None:
    """Write pixels (B, K, C, τ, p, p) of the listed tokens into a clip: the inverse of `token_pixels`."""
    blocks, where = _token_blocks(clip, index, patch)
    blocks[where] = pixels


def per_channel(values: Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Channel values as (C, 1, 1, 1), to broadcast over (…, C, τ, p, p)."""
    return torch.tensor(values, dtype=dtype, device=like.device).view(-1, 1, 1, 1)


def pixel_targets(pixels: Tensor, scale: Sequence[float], shift: Sequence[float], normalize: bool) -> Tensor:
    """Targets (B, K, C, τ·p·p) of raw pixels (B, K, C, τ, p, p), which are overwritten."""
    pixels = pixels.flatten(3)
    factor = per_channel(scale, pixels, pixels.dtype).view(-1, 1)
    if not normalize:
        return pixels.mul_(factor).add_(per_channel(shift, pixels, pixels.dtype).view(-1, 1))
    # LayerNorm's kernel is ten times faster than std_mean. It divides by the biased deviation, rstd⁻¹, so
    # (x − mean) / (unbiased deviation + ε) is its output / (sqrt(n / (n − 1)) + ε·rstd), and ε in units of raw pixels
    # is ε / scale. Its own ε only keeps constant tokens finite: they come out as 0.
    count = pixels.shape[3]
    normalised, _, rstd = torch.native_layer_norm(pixels, [count], None, None, 1e-30)
    return normalised.div_(rstd.mul_(EPS / factor).add_((count / (count - 1)) ** 0.5))
