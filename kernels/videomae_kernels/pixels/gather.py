"""tube_mask_gather: the pixels of the kept tokens, straight from the clip, ready for the patch embedding's GEMM."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check_dtype
from .._custom_op import arithmetic_dtype, define_op
from .clip import DIMENSIONS, ChannelStats, check_pixel_values, open_clip
from .crops import CroppedClips
from .reference import per_channel, place_token_pixels, token_pixels


def _reference(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    crops_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    pixels = token_pixels(clip, shape, index, patch, crops_dtype)
    if any(s != 1.0 for s in scale):
        pixels.mul_(per_channel(scale, pixels))
    if any(s != 0.0 for s in shift):
        pixels.add_(per_channel(shift, pixels))
    return pixels.flatten(2).to(dtype)


def _allocate(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    return index.new_empty((*index.shape, shape[1] * patch[0] * patch[1] * patch[2]), dtype=dtype)


def _launch(
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    from .triton import launch

    launch("gather", clip, shape, index, patch, scale, shift, out)


def _backward_reference(
    grad: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    clip = grad.new_zeros(shape, dtype=dtype)
    grad = grad.unflatten(2, (shape[1], *patch)).to(arithmetic_dtype(grad, clip))
    place_token_pixels(clip, index, patch, (grad * per_channel(scale, grad)).to(dtype))
    return clip


def _allocate_backward(
    grad: Tensor, index: Tensor, patch: Sequence[int], scale: Sequence[float], shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    return grad.new_empty(shape, dtype=dtype)


def _launch_backward(
    grad: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shape: Sequence[int],
    dtype: torch.dtype,
    out: Tensor,
) -> None:
    from .triton.clip import launch_gather_backward

    launch_gather_backward(grad, index, patch, scale, out)


def _check(clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, patch: Sequence[int], *options: Any) -> None:
    check_pixel_values(clip, shape, index, patch)


gather_op = define_op("tube_mask_gather", _reference, _allocate, _launch, _check)
_backward_op = define_op("tube_mask_gather_backward", _backward_reference, _allocate_backward, _launch_backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    clip, ctx.shape, index, ctx.patch, ctx.scale, _, _ = inputs
    ctx.dtype = clip[0].dtype
    ctx.save_for_backward(index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Of a floating tensor clip: crop boxes are uint8 and have no gradient."""
    (index,) = ctx.saved_tensors
    grad_clip = _backward_op(grad.contiguous(), index, ctx.patch, ctx.scale, ctx.shape, ctx.dtype)
    return [grad_clip], None, None, None, None, None, None


gather_op.register_autograd(_backward, setup_context=_setup_context)


def tube_mask_gather(
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch: Sequence[int],
    *,
    layout: str = DIMENSIONS,
    normalize: ChannelStats | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Pixels of the listed tokens, in the column order of the patch embedding's weight.

        rows[b, k, ((c·τ + i)·p + y)·p + x] = clip[b, c, t·τ + i, h·p + y, w·p + x]·scale_c + shift_c

    with (t, h, w) the position of token index[b, k] in the grid (T/τ, H/p, W/p). uint8 pixels become [0, 1]; scale
    and shift apply `normalize` on the way. The column order is that of a flattened Conv3d weight (D, C, τ, p, p), so
    `rows @ weight.flatten(1).T` is the convolution (stride = kernel) at those tokens. Other tokens are never read.
    Differentiable in a floating clip: the gradient is written once, zero at tokens that are not listed.

    Args:
        clip: uint8 in [0, 255] or floating, of any strides, five dimensions in the order of `layout`; or
            `CroppedClips`.
        index: (B, K) int32 or int64 token numbers in (t, h, w) order, w fastest, unique per sample.
        patch: (τ, p, p) frames, rows and columns of a token.
        layout: order of the clip's dimensions, a permutation of "BCTHW". `CroppedClips` have no use for it.
        normalize: (mean, std) of each channel for pixels in [0, 1]; None leaves them as they are.
        dtype: floating dtype of the result; None is the clip's, or float32 if that is uint8.

    Returns:
        (B, K, C·τ·p·p) contiguous, of `dtype`. Arithmetic is float32, or float64 on a CPU where the clip is.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        `PatchEmbed` of VideoMAE V2, models/modeling_pretrain.py (OpenGVLab/VideoMAEv2), at visible tokens only.
    """
    opened = open_clip(clip, index, patch, layout, normalize=normalize)
    if dtype is None:
        dtype = torch.float32 if clip.dtype == torch.uint8 else clip.dtype
    return gather_op(*opened, check_dtype(dtype))
