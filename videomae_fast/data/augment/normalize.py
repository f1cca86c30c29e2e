"""From pixels in [0, 255] to the normalised clips that a model takes as floating tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from videomae_kernels import CroppedClips, tube_mask_gather

from .upload import upload

_LARGEST_PATCH = 16  # of the gather; any that divides the clip gives the same values


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """(pixel / 255 − mean) / std, channel by channel.

    Args:
        pixels: (B, C, T, H, W) in [0, 255]; uint8, or float32, which is overwritten.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        dtype: floating dtype of the result.

    Returns:
        (B, C, T, H, W); computed in float32.
    """
    scale = torch.tensor([1 / (255 * one) for one in std]).view(-1, 1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1, 1)
    return pixels.float().mul_(upload(scale, pixels.device)).add_(upload(shift, pixels.device)).to(dtype)


def normalized_clips(
    clips: CroppedClips, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The whole clips that crop boxes stand for, resized as they say and normalised.

    Args:
        clips: B crop boxes.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.
        dtype: floating dtype of the result.

    Returns:
        (B, C, T, H, W) contiguous.
    """
    batch, channels, frames, height, width = clips.shape
    side = math.gcd(math.gcd(height, width), _LARGEST_PATCH)
    rows, columns = height // side, width // side
    index = torch.arange(frames * rows * columns, device=clips.device).expand(batch, -1)
    tokens = tube_mask_gather(clips, index, (1, side, side), normalize=(mean, std), dtype=dtype)
    tokens = tokens.view(batch, frames, rows, columns, channels, side, side)
    clip = tokens.permute(0, 4, 1, 2, 5, 3, 6).reshape(batch, channels, frames, height, width)
    return clip.contiguous()
