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
    dense, channels = clip[0], shape[1]
    dtype = arithmetic_dtype(dense)
    if index.numel() == 0:
        return dense.new_empty((*index.shape, channels, *patch), dtype=dtype)
    _, stride_c, *_, stride_w = dense.stride()
    if (stride_c, stride_w) == (1, channels):  # as BTHWC clips have: a line is one run of memory
        lines = _lines(dense, _line_starts(dense, index, patch, 1), channels * patch[2], 1)
        lines = lines.view(*index.shape, patch[0], patch[1], patch[2], channels)
        return lines.permute(0, 1, 5, 2, 3, 4).to(dtype, memory_format=torch.contiguous_format)
    lines = _lines(dense, _line_starts(dense, index, patch, channels), patch[2], stride_w)
    return lines.view(*index.shape, channels, *patch).to(dtype)


def place_token_pixels(clip: Tensor, index: Tensor, patch: Sequence[int], pixels: Tensor) -> None:
    """Write pixels (B, K, C, τ, p, p) of the listed tokens into a contiguous (B, C, T, H, W) clip."""
    starts = _line_starts(clip, index, patch, clip.shape[1])
    clip.view(-1, patch[2]).index_copy_(0, starts // patch[2], pixels.reshape(-1, patch[2]))


def _line_starts(clip: Tensor, index: Tensor, patch: Sequence[int], channels: int) -> Tensor:
    """Offsets in a clip at which the lines of the listed tokens begin, (B · K · channels · τ · p,)."""
    frames, height, width = patch
    grid_h, grid_w = clip.shape[3] // height, clip.shape[4] // width
    b, c, t, h, w = clip.stride()
    index = index.long()  # clips pass 2³¹ elements
    corner = index // (grid_h * grid_w) * (frames * t)
    corner += index // grid_w % grid_h * (height * h)
    corner += index % grid_w * (width * w)
    corner += torch.arange(len(index))[:, None] * b
    line = torch.arange(height) * h + torch.arange(frames)[:, None] * t
    return (corner[:, :, None, None, None] + (line + torch.arange(channels)[:, None, None] * c)).flatten()


def _lines(clip: Tensor, starts: Tensor, length: int, stride: int) -> Tensor:
    """(starts, length) elements of a clip. Copying whole lines is several times faster than indexing pixels."""
    last = sum((size - 1) * step for size, step in zip(clip.shape, clip.stride(), strict=True))
    return clip.as_strided((last + 1 - (length - 1) * stride, length), (1, stride)).index_select(0, starts)


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
