"""patch_targets: what the decoder has to predict for the listed tokens."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._checks import check_flag
from .._custom_op import arithmetic_dtype, define_op
from .clip import DIMENSIONS, ChannelStats, OpenClip, check_pixel_values, open_clip
from .crops import CroppedClips
from .reference import channel_targets


def _reference(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    targets = channel_targets(clip, shape, index, patch, scale, shift, normalize)
    return targets.transpose(2, 3).flatten(2).contiguous()


def _allocate(
    clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, patch: Sequence[int], *options: Any
) -> Tensor:
    values = shape[1] * patch[0] * patch[1] * patch[2]
    return index.new_empty((*index.shape, values), dtype=arithmetic_dtype(*clip))


def _launch(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
    out: Tensor,
) -> None:
    from .triton import launch

    launch("targets", clip, shape, index, patch, scale, shift, out, normalize=normalize)


def _check(clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, patch: Sequence[int], *options: Any) -> None:
    check_pixel_values(clip, shape, index, patch)


_op = define_op("patch_targets", _reference, _allocate, _launch, _check)


def open_target_clip(
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch: Sequence[int],
    layout: str,
    denormalize: ChannelStats | None,
    normalize_target: bool,
) -> OpenClip:
    """`open_clip` for ops that make targets, which carry no gradient to the clip."""
    opened = open_clip(clip, index, patch, layout, denormalize=denormalize)
    if check_flag(normalize_target, "normalize_target") and max(opened.patch) < 2:
        raise ValueError(f"normalize_target needs at least 2 pixels per token, got patch {tuple(patch)}")
    tensors = [tensor.detach() for tensor in opened.tensors]
    return OpenClip(tensors, opened.shape, opened.listed, opened.patch, opened.scale, opened.shift)


def patch_targets(
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch: Sequence[int],
    *,
    layout: str = DIMENSIONS,
    denormalize: ChannelStats | None = None,
    normalize_target: bool = True,
) -> Tensor:
    """Targets of the listed tokens: their pixels, normalised per token and channel, channel fastest.

        u[b, k, q, c] = pixel q = (i·p + y)·p + x of channel c of token index[b, k], in [0, 1]
        target[b, k, q·C + c] = (u − mean_q u) / (sqrt(var_q u) + 1e-6)

    with the unbiased variance over the τ·p·p pixels, or target = u without `normalize_target`. Targets carry no
    gradient. `masked_patch_loss` uses the same mathematics without storing them.

    Args:
        clip: uint8 in [0, 255] or floating, of any strides, five dimensions in the order of `layout`; or
            `CroppedClips`.
        index: (B, K) int32 or int64 token numbers in (t, h, w) order, w fastest, unique per sample.
        patch: (τ, p, p) frames, rows and columns of a token.
        layout: order of the clip's dimensions, a permutation of "BCTHW". `CroppedClips` have no use for it.
        denormalize: (mean, std) of each channel that a floating clip was normalised with; it is undone first.
        normalize_target: normalise each token and channel, as published.

    Returns:
        (B, K, τ·p·p·C) float32; float64 on a CPU if the clip is.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed, `denormalize` comes with a uint8 clip, or
            `normalize_target` with tokens of one pixel.
        TypeError: a dtype of an argument is not allowed.

    References:
        VideoMAE V2 (arXiv 2303.16727), engine_for_pretraining.py (OpenGVLab/VideoMAEv2), for listed tokens only.
    """
    opened = open_target_clip(clip, index, patch, layout, denormalize, normalize_target)
    return _op(*opened, bool(normalize_target))
