"""tube_mask_gather: the pixels of the kept tokens, straight from the clip, ready for the patch embedding's GEMM.

    rows[b, k, ((c·τ + i)·p + y)·p + x] = clip[b, c, t·τ + i, h·p + y, w·p + x]·scale_c + shift_c
    with (t, h, w) the position of token index[b, k] in the grid (T/τ, H/p, W/p)

The column order is that of a flattened Conv3d weight (D, C, τ, p, p), so `rows @ weight.flatten(1).T` equals the
convolution (stride = kernel) at those tokens; tokens that are not listed are never read. uint8 pixels become
[0, 1] and `normalize=(mean, std)` is applied on the way. Source: `PatchEmbed` of VideoMAE V2's
`models/modeling_pretrain.py`, restricted to visible tokens. Backward to a floating clip scatters the rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
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
    per_channel,
    place_token_pixels,
    token_pixels,
)


def _reference(
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    pixels = token_pixels(clip, index, patch).to(arithmetic_dtype(clip))
    if any(s != 1.0 for s in scale):
        pixels.mul_(per_channel(scale, clip, pixels.dtype))
    if any(s != 0.0 for s in shift):
        pixels.add_(per_channel(shift, clip, pixels.dtype))
    return pixels.flatten(2).to(dtype)


def _allocate(
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    pixels = clip.shape[1] * patch[0] * patch[1] * patch[2]
    return clip.new_empty((index.shape[0], index.shape[1], pixels), dtype=dtype)


def _backward_reference(
    grad: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    clip = grad.new_zeros(shape, dtype=dtype)
    compute = arithmetic_dtype(grad, clip)
    grad = grad.unflatten(2, (shape[1], *patch)).to(compute) * per_channel(scale, grad, compute)
    place_token_pixels(clip, index, patch, grad.to(dtype))
    return clip


def _allocate_backward(
    grad: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return grad.new_empty(shape, dtype=dtype)


def _launch(*args: Any) -> None:
    from .triton.clip import tube_mask_gather

    tube_mask_gather(*args)


def _launch_backward(*args: Any) -> None:
    from .triton.clip import tube_mask_gather_backward

    tube_mask_gather_backward(*args)


_op = define_op("tube_mask_gather", _reference, _allocate, _launch)
_backward_op = define_op(
    "tube_mask_gather_backward",
    _backward_reference,
    _allocate_backward,
    _launch_backward,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    clip, index, ctx.patch, ctx.scale, _, _ = inputs
    ctx.clip_shape, ctx.clip_dtype = list(clip.shape), clip.dtype
    ctx.save_for_backward(index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (index,) = ctx.saved_tensors
    grad_clip = _backward_op(grad.contiguous(), index, ctx.patch, ctx.scale, ctx.clip_shape, ctx.clip_dtype)
    return grad_clip, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)


def tube_mask_gather(
    clip: Tensor | CroppedClips,  # five dimensions in the order of `layout`, any strides, uint8 or floating
    index: Tensor,  # (B, K) int32/int64 tokens in (t, h, w) order, unique per sample
    patch_size: Sequence[int],  # (τ, p, p)
    *,
    layout: str = "BCTHW",
    normalize: ChannelStats | None = None,  # (mean, std) per channel, for pixels in [0, 1]
    dtype: torch.dtype | None = None,  # of the result; default: the clip's if floating, else float32
) -> Tensor:  # (B, K, C·τ·p·p)
    """Pixels of the listed tokens in the patch embedding's order; see the module docstring."""
    if dtype is None:
        dtype = clip.dtype if clip.dtype.is_floating_point else torch.float32
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating, got {dtype}")
    if isinstance(clip, CroppedClips):
        where = cropped_pixels.arguments(clip, index, patch_size)
        return cropped_pixels.gather(*where, *channel_affine(clip, normalize, "normalize", inverse=False), dtype)
    clip = as_bcthw(clip, layout, patch_size)
    index = check_index(index, "index", batch=clip.shape[0], limit=num_tokens(clip, patch_size), like=clip)
    scale, shift = channel_affine(clip, normalize, "normalize", inverse=False)
    return _op(clip, index, [int(n) for n in patch_size], scale, shift, dtype)
