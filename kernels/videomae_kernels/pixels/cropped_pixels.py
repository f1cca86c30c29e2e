"""What tube_mask_gather, patch_targets and masked_patch_loss compute when their clip is a `CroppedClips`.

The mathematics of each, with the pixels of `_resize` in place of a tensor's; the resized clip is never stored.
Frames are uint8, so there is no gradient to them. The resize is done again for the gradient of the loss.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check_index
from .._custom_op import arithmetic_dtype, define_op
from .crops import CroppedClips
from .reference import check_patch_size, num_tokens, per_channel, pixel_targets
from .resize import resized_pixels

# Every op begins with: frames, geometry, first, weights, shape (B, C, T, H, W), index, patch, scale, shift.


def _gather_reference(
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    pixels = resized_pixels(frames, geometry, first, weights, shape, index, patch, compute)
    pixels.mul_(per_channel(scale, pixels, compute)).add_(per_channel(shift, pixels, compute))
    return pixels.flatten(2).to(dtype)


def _allocate_rows(frames: Tensor, index: Tensor, shape: Sequence[int], patch: Sequence[int], dtype: Any) -> Tensor:
    return frames.new_empty((*index.shape, shape[1] * patch[0] * patch[1] * patch[2]), dtype=dtype)


def _allocate_gather(
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    *rest: Any,
) -> Tensor:
    return _allocate_rows(frames, index, shape, patch, rest[-1])


def _targets_reference(
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    pixels = resized_pixels(frames, geometry, first, weights, shape, index, patch, torch.float32)
    return pixel_targets(pixels, scale, shift, normalize).transpose(2, 3).flatten(2).contiguous()


def _allocate_targets(
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    *rest: Any,
) -> Tensor:
    return _allocate_rows(frames, index, shape, patch, torch.float32)


def _targets_of_each_clip(
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    *options: Any,
) -> Iterator[Tensor]:
    """Targets (K, P) clip by clip, so that no more of the resized clips exists at once."""
    for b in range(index.shape[0]):
        one = slice(b, b + 1)
        yield _targets_reference(frames, geometry[one], first[one], weights[one], shape, index[one], *options)[0]


def _loss_reference(
    pred: Tensor,
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    rows = _allocate_loss(pred)
    targets = _targets_of_each_clip(frames, geometry, first, weights, shape, index, patch, scale, shift, normalize)
    for b, target in enumerate(targets):
        torch.mean((pred[b] - target).square_(), dim=1, out=rows[b])
    return rows


def _allocate_loss(pred: Tensor, *options: Any) -> Tensor:
    return pred.new_empty(pred.shape[:2], dtype=arithmetic_dtype(pred))


def _loss_backward_reference(
    grad: Tensor,
    pred: Tensor,
    frames: Tensor,
    geometry: Tensor,
    first: Tensor,
    weights: Tensor,
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    normalize: bool,
) -> Tensor:
    out = pred.new_empty(pred.shape)
    targets = _targets_of_each_clip(frames, geometry, first, weights, shape, index, patch, scale, shift, normalize)
    for b, target in enumerate(targets):
        out[b] = (pred[b] - target).mul_(grad[b, :, None] * (2 / pred.shape[2]))
    return out


def _allocate_loss_backward(grad: Tensor, pred: Tensor, *options: Any) -> Tensor:
    return pred.new_empty(pred.shape)


def _launch_gather(*args: Any) -> None:
    from .triton.crops import tube_mask_gather

    tube_mask_gather(*args)


def _launch_targets(*args: Any) -> None:
    from .triton.crops import patch_targets

    patch_targets(*args)


def _launch_loss(*args: Any) -> None:
    from .triton.crops import masked_patch_loss

    masked_patch_loss(*args)


def _launch_loss_backward(*args: Any) -> None:
    from .triton.crops import masked_patch_loss_backward

    masked_patch_loss_backward(*args)


gather = define_op("tube_mask_gather_cropped", _gather_reference, _allocate_gather, _launch_gather)
targets = define_op("patch_targets_cropped", _targets_reference, _allocate_targets, _launch_targets)
loss = define_op("masked_patch_loss_cropped", _loss_reference, _allocate_loss, _launch_loss)
_loss_backward = define_op(
    "masked_patch_loss_cropped_backward",
    _loss_backward_reference,
    _allocate_loss_backward,
    _launch_loss_backward,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pred, frames, geometry, first, weights, ctx.shape, index, *ctx.options = inputs
    ctx.save_for_backward(pred, frames, geometry, first, weights, index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, index = ctx.saved_tensors
    return _loss_backward(grad.contiguous(), *tensors, ctx.shape, index, *ctx.options), *([None] * 10)


loss.register_autograd(_backward, setup_context=_setup_context)


def arguments(clips: CroppedClips, index: Tensor, patch_size: Sequence[int]) -> tuple[Any, ...]:
    """Checked (frames, geometry, first, weights, shape, index, patch)."""
    patch = check_patch_size(patch_size, clips.shape[2:])
    index = check_index(index, "index", batch=clips.shape[0], limit=num_tokens(clips, patch), like=clips.frames)
    taps = clips.first.contiguous(), clips.weights.contiguous()
    return clips.frames.contiguous(), clips.geometry.contiguous(), *taps, list(clips.shape), index, patch
