"""masked_patch_loss: mean squared error against targets that are never stored.

    row[b, k] = mean_j (pred[b, k, j] − target[b, k, j])²,   target = patch_targets(clip, index)
    loss = mean of row, or Σ weight·row / Σ weight

Equals `F.mse_loss(pred.float(), patch_targets(...))`, the loss of VideoMAE V2's `engine_for_pretraining.py` over the
decoded tokens that the encoder did not see. Targets are made from the clip in forward and again in backward, so
between the two nothing is kept but `pred` and the clip. Gradient: to `pred`, in its dtype; none to the clip.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check_device, check_floating, check_shape
from .._custom_op import arithmetic_dtype, define_op
from . import cropped_pixels
from .crops import CroppedClips
from .reference import ChannelStats
from .targets import channel_targets, target_arguments


def _reference(
    pred: Tensor,
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    rows = _allocate(pred, clip, index)
    for b in range(pred.shape[0]):  # one sample at a time: its targets stay in cache and are gone again
        target = channel_targets(clip[b : b + 1], index[b : b + 1], patch, scale, shift, normalize)[0]
        torch.mean(target.sub_(_by_channel(pred[b], target)).square_(), dim=(1, 2), out=rows[b])
    return rows


def _by_channel(pred: Tensor, target: Tensor) -> Tensor:
    """View predictions (K, P), channel fastest, in the shape of channel targets (K, C, τ·p·p)."""
    return pred.unflatten(1, (-1, target.shape[1])).transpose(1, 2)


def _allocate(pred: Tensor, clip: Tensor, index: Tensor, *options: Any) -> Tensor:
    return pred.new_empty(index.shape, dtype=arithmetic_dtype(clip, pred))


def _backward_reference(
    grad: Tensor,
    pred: Tensor,
    clip: Tensor,
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    out = torch.empty_like(pred, memory_format=torch.contiguous_format)
    for b in range(pred.shape[0]):
        target = channel_targets(clip[b : b + 1], index[b : b + 1], patch, scale, shift, normalize)[0]
        error = torch.sub(_by_channel(pred[b], target), target)
        _by_channel(out[b], target).copy_(error.mul_(grad[b, :, None, None] * (2 / pred.shape[2])))
    return out


def _allocate_backward(grad: Tensor, pred: Tensor, *target: Any) -> Tensor:
    return pred.new_empty(pred.shape)


def _launch(*args: Any) -> None:
    from .triton.clip import masked_patch_loss

    masked_patch_loss(*args)


def _launch_backward(*args: Any) -> None:
    from .triton.clip import masked_patch_loss_backward

    masked_patch_loss_backward(*args)


_op = define_op("masked_patch_loss", _reference, _allocate, _launch)
_backward_op = define_op(
    "masked_patch_loss_backward",
    _backward_reference,
    _allocate_backward,
    _launch_backward,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, clip, index, *ctx.options = inputs
    ctx.save_for_backward(pred, clip, index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (
        _backward_op(grad.contiguous(), *ctx.saved_tensors, *ctx.options),
        None,
        None,
        None,
        None,
        None,
        None,
    )


_op.register_autograd(_backward, setup_context=_setup_context)


def masked_patch_loss(
    pred: Tensor,  # (B, K, τ·p·p·C) floating
    clip: Tensor | CroppedClips,  # five dimensions in the order of `layout`, any strides, uint8 or floating
    index: Tensor,  # (B, K) int32/int64 tokens that `pred` predicts, unique per sample
    patch_size: Sequence[int],  # (τ, p, p)
    *,
    layout: str = "BCTHW",
    denormalize: ChannelStats | None = None,  # (mean, std) a floating clip was normalised with
    normalize_target: bool = True,
    weight: Tensor | None = None,  # (B, K) weight of each row
) -> Tensor:  # scalar float32
    """Mean squared error of `pred` against the listed tokens' pixels; see the module docstring."""
    check_floating(pred, "pred")
    arguments = target_arguments(clip, index, patch_size, layout, denormalize, normalize_target)
    if isinstance(clip, CroppedClips):
        op, channels, like = cropped_pixels.loss, clip.channels, clip.frames
    else:
        op, channels, like = _op, clip.shape[layout.index("C")], clip
    check_shape(pred, "pred", (*index.shape, channels * patch_size[0] * patch_size[1] * patch_size[2]))
    check_device(pred, "pred", like)
    rows = op(pred, *arguments)
    if weight is None:
        return rows.mean()
    check_shape(weight, "weight", rows.shape)
    check_device(weight, "weight", like)
    weight = weight.to(rows.dtype)
    return (rows * weight).sum() / weight.sum()
