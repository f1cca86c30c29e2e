"""masked_patch_loss: mean squared error against targets that are never stored."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, REAL, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .clip import DIMENSIONS, ChannelStats, check_pixel_values
from .crops import CroppedClips
from .reference import channel_targets, is_cropped, one_clip
from .targets import open_target_clip


def _reference(
    pred: Tensor,
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    rows = _allocate(pred, clip, shape, index)
    for b in range(pred.shape[0]):  # one sample at a time: its targets stay in cache and are gone again
        target = channel_targets(one_clip(clip, b), shape, index[b : b + 1], patch, scale, shift, normalize)[0]
        # Sums follow the order of the errors in memory: that of predictions for crops, that of targets for a tensor.
        if is_cropped(clip):
            error = pred[b] - target.transpose(1, 2).flatten(1)
        else:
            error = target.sub_(_by_channel(pred[b], target))
        torch.mean(error.square_(), dim=tuple(range(1, error.ndim)), out=rows[b])
    return rows


def _by_channel(pred: Tensor, target: Tensor) -> Tensor:
    """View predictions (K, P), channel fastest, in the shape of channel targets (K, C, τ·p·p)."""
    return pred.unflatten(1, (-1, target.shape[1])).transpose(1, 2)


def _allocate(pred: Tensor, clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, *options: Any) -> Tensor:
    return pred.new_empty(index.shape, dtype=arithmetic_dtype(pred, *clip))


def _launch(
    pred: Tensor,
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

    launch("loss", clip, shape, index, patch, scale, shift, out, normalize=normalize, pred=pred)


def _backward_reference(
    grad: Tensor,
    pred: Tensor,
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    out = _allocate_backward(grad, pred)
    for b in range(pred.shape[0]):
        target = channel_targets(one_clip(clip, b), shape, index[b : b + 1], patch, scale, shift, normalize)[0]
        error = torch.sub(_by_channel(pred[b], target), target)
        _by_channel(out[b], target).copy_(error.mul_(grad[b, :, None, None] * (2 / pred.shape[2])))
    return out


def _allocate_backward(grad: Tensor, pred: Tensor, *target: Any) -> Tensor:
    return pred.new_empty(pred.shape)


def _launch_backward(
    grad: Tensor,
    pred: Tensor,
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

    launch("gradient", clip, shape, index, patch, scale, shift, out, normalize=normalize, pred=pred, grad=grad)


def _check(
    pred: Tensor, clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, patch: Sequence[int], *options: Any
) -> None:
    check_pixel_values(clip, shape, index, patch)


_op = define_op("masked_patch_loss", _reference, _allocate, _launch, _check)
_backward_op = define_op("masked_patch_loss_backward", _backward_reference, _allocate_backward, _launch_backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, clip, ctx.shape, index, *ctx.options = inputs
    ctx.save_for_backward(pred, index, *clip)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    pred, index, *clip = ctx.saved_tensors
    grad_pred = _backward_op(grad.contiguous(), pred, clip, ctx.shape, index, *ctx.options)
    return grad_pred, [None] * len(clip), None, None, *([None] * len(ctx.options))


_op.register_autograd(_backward, setup_context=_setup_context)


def masked_patch_loss(
    pred: Tensor,
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch: Sequence[int],
    *,
    layout: str = DIMENSIONS,
    denormalize: ChannelStats | None = None,
    normalize_target: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error of predicted tokens, whose targets are made from the clip and never stored.

        row[b, k] = mean_j (pred[b, k, j] − target[b, k, j])²,   target = patch_targets(clip, index, patch)
        loss = mean of row, or Σ weight·row / Σ weight

    Equals `F.mse_loss(pred.float(), patch_targets(...))`. Targets are made in forward and again in backward, so that
    between the two nothing is kept but `pred` and the clip. Differentiable in `pred` and `weight`, not in the clip.

    Args:
        pred: (B, K, τ·p·p·C) floating predictions, channel fastest, of any strides.
        clip: uint8 in [0, 255] or floating, of any strides, five dimensions in the order of `layout`; or
            `CroppedClips`.
        index: (B, K) int32 or int64 token numbers that `pred` predicts, in (t, h, w) order, unique per sample.
        patch: (τ, p, p) frames, rows and columns of a token.
        layout: order of the clip's dimensions, a permutation of "BCTHW". `CroppedClips` have no use for it.
        denormalize: (mean, std) of each channel that a floating clip was normalised with; it is undone first.
        normalize_target: normalise each token and channel, as published.
        weight: (B, K) weights of the rows; None weighs all alike.

    Returns:
        Scalar float32; float64 on a CPU if `pred` or the clip is.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed, the batch is empty, `denormalize` comes
            with a uint8 clip, or `normalize_target` with tokens of one pixel.
        TypeError: a dtype of an argument is not allowed.

    References:
        VideoMAE V2 (arXiv 2303.16727), section 3.2: the loss over decoded tokens that the encoder did not see;
        engine_for_pretraining.py (OpenGVLab/VideoMAEv2).
    """
    check_tensor(pred, "pred", FLOATING, ("B", "K", "τ·p·p·C"))
    opened = open_target_clip(clip, index, patch, layout, denormalize, normalize_target)
    values = opened.shape[1] * opened.patch[0] * opened.patch[1] * opened.patch[2]
    check_tensor(pred, "pred", FLOATING, (*opened.listed.shape, values), opened.listed)
    if opened.shape[0] == 0:
        raise ValueError(f"clip has a batch of 0, and a mean over no tokens has no value: got shape {opened.shape}")
    rows = _op(pred, *opened, bool(normalize_target))
    if weight is None:
        return rows.mean()
    check_tensor(weight, "weight", REAL, rows.shape, rows)
    weight = weight.to(rows.dtype)
    return (rows * weight).sum() / weight.sum()
