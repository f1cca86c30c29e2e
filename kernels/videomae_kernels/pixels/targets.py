"""patch_targets: what the decoder has to predict for the listed tokens.

    u[b, k, q, c] = pixel q = (i·p + y)·p + x of channel c of token index[b, k], in [0, 1]
    target[b, k, q·C + c] = (u − mean_q u) / (sqrt(var_q u) + 1e-6)     (unbiased variance over the τ·p·p pixels)

Channel fastest, statistics per token and per channel: VideoMAE V2, `engine_for_pretraining.py`, made for the
listed tokens only. Targets carry no gradient. `masked_patch_loss` uses the same mathematics without storing them.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._checks import check_index
from .._custom_op import arithmetic_dtype, define_op
from . import cropped_pixels
from .crops import CroppedClips
from .reference import (
    ChannelStats,
    as_bcthw,
    channel_affine,
    num_tokens,
    pixel_targets,
    token_pixels,
)


def channel_targets(
    clip: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shift: Sequence[float], normalize: bool
) -> Tensor:
    """Targets (B, K, C, τ·p·p), channel slowest, of a (B, C, T, H, W) clip; float64 if the clip is, else float32."""
    return pixel_targets(token_pixels(clip, index, patch).to(arithmetic_dtype(clip)), scale, shift, normalize)


def _reference(
    clip: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shift: Sequence[float], normalize: bool
) -> Tensor:
    targets = channel_targets(clip, index, patch, scale, shift, normalize)
    return targets.transpose(2, 3).flatten(2).contiguous()


def _allocate(clip: Tensor, index: Tensor, patch: Sequence[int], *options: Any) -> Tensor:
    pixels = clip.shape[1] * patch[0] * patch[1] * patch[2]
    return clip.new_empty((index.shape[0], index.shape[1], pixels), dtype=arithmetic_dtype(clip))


def _launch(*args: Any) -> None:
    from .triton.clip import patch_targets

    patch_targets(*args)


_op = define_op("patch_targets", _reference, _allocate, _launch)


def target_arguments(
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch_size: Sequence[int],
    layout: str,
    denormalize: ChannelStats | None,
    normalize: bool,
) -> tuple[Any, ...]:
    """Checked arguments of the target-making ops, in the order of their schema (that of `cropped_pixels` for those)."""
    if isinstance(clip, CroppedClips):
        where = cropped_pixels.arguments(clip, index, patch_size)
    else:
        clip = as_bcthw(clip, layout, patch_size).detach()
        index = check_index(index, "index", batch=clip.shape[0], limit=num_tokens(clip, patch_size), like=clip)
        where = clip, index, [int(n) for n in patch_size]
    if normalize and patch_size[0] * patch_size[1] * patch_size[2] < 2:
        raise ValueError(f"normalize_target needs at least 2 pixels per token, got patch_size {tuple(patch_size)}")
    return *where, *channel_affine(clip, denormalize, "denormalize", inverse=True), normalize


def patch_targets(
    clip: Tensor | CroppedClips,  # five dimensions in the order of `layout`, any strides, uint8 or floating
    index: Tensor,  # (B, K) int32/int64 tokens in (t, h, w) order, unique per sample
    patch_size: Sequence[int],  # (τ, p, p)
    *,
    layout: str = "BCTHW",
    denormalize: ChannelStats | None = None,  # (mean, std) a floating clip was normalised with
    normalize_target: bool = True,
) -> Tensor:  # (B, K, τ·p·p·C) float32
    """Targets of the listed tokens as a tensor; see the module docstring for the mathematics."""
    arguments = target_arguments(clip, index, patch_size, layout, denormalize, normalize_target)
    return cropped_pixels.targets(*arguments) if isinstance(clip, CroppedClips) else _op(*arguments)
