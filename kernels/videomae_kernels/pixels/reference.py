"""Plain-torch arithmetic on the pixels of listed tokens: what the references of the pixel ops share.

A clip is a list of tensors here, as in the schemas: a (B, C, T, H, W) tensor alone, or `CroppedClips.tensors`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._custom_op import arithmetic_dtype
from .resize import resized_pixels

EPS = 1e-6  # added to the standard deviation of targets, as published


def is_cropped(clip: Sequence[Tensor]) -> bool:
    """Whether a clip is crop boxes of decoded frames rather than a tensor."""
    return len(clip) > 1


def one_clip(clip: Sequence[Tensor], b: int) -> list[Tensor]:
    """Clip number `b` of a batch, as a batch of one."""
    if not is_cropped(clip):
        return [clip[0][b : b + 1]]
    frames, *of_each_clip = clip
    return [frames, *(tensor[b : b + 1] for tensor in of_each_clip)]


def token_pixels(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    crops_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """New tensor (B, K, C, τ, p, p) of raw pixels: of a tensor in its arithmetic dtype, of crops in `crops_dtype`."""
    if is_cropped(clip):
        return resized_pixels(clip, shape, index, patch, crops_dtype)
    blocks, where = _token_blocks(clip[0], index, patch)
    return blocks[where].to(arithmetic_dtype(clip[0]))


def place_token_pixels(clip: Tensor, index: Tensor, patch: Sequence[int], pixels: Tensor) -> None:
    """Write pixels (B, K, C, τ, p, p) of the listed tokens into a (B, C, T, H, W) clip."""
    blocks, where = _token_blocks(clip, index, patch)
    blocks[where] = pixels


def _token_blocks(clip: Tensor, index: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A view (B, T', H', W', C, τ, p, p) of a clip, and the coordinates of the listed tokens in it."""
    blocks = clip.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    blocks = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    height, width = blocks.shape[2:4]
    sample = torch.arange(index.shape[0], device=index.device)[:, None]
    return blocks, (sample, index // (height * width), index // width % height, index % width)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """Channel values as (C, 1, 1, 1), to broadcast over (…, C, τ, p, p)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)


def channel_targets(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    """Targets (B, K, C, τ·p·p), channel slowest: the mathematics of `patch_targets`."""
    pixels = token_pixels(clip, shape, index, patch).flatten(3)
    factor = per_channel(scale, pixels).view(-1, 1)
    if not normalize:
        return pixels.mul_(factor).add_(per_channel(shift, pixels).view(-1, 1))
    # LayerNorm's kernel is ten times faster than std_mean. It divides by the biased deviation, rstd⁻¹, so
    # (x − mean) / (unbiased deviation + ε) is its output / (sqrt(n / (n − 1)) + ε·rstd), and ε in units of raw pixels
    # is ε / scale. Its own ε only keeps constant tokens finite: they come out as 0.
    count = pixels.shape[3]
    normalised, _, rstd = torch.native_layer_norm(pixels, [count], None, None, 1e-30)
    return normalised.div_(rstd.mul_(EPS / factor).add_((count / (count - 1)) ** 0.5))
