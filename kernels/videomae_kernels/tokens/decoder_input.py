"""assemble_decoder_tokens: the decoder's input sequence, written once."""

from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_index, check_shape, check_tensor
from .._custom_op import define_op
from .._values import check_index_values
from .rows import scatter_op


def _reference(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
    listed, split = torch.cat([visible, decoded], dim=1), visible.shape[1]
    table = position.to(_promoted(tokens, mask_token, position))
    out = table.index_select(0, listed.flatten()).unflatten(0, listed.shape)
    out[:, :split] += tokens
    out[:, split:] += mask_token
    return out


def _allocate(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
    rows = visible.shape[1] + decoded.shape[1]
    dtype = _promoted(tokens, mask_token, position)
    return tokens.new_empty((tokens.shape[0], rows, tokens.shape[2]), dtype=dtype)


def _promoted(tokens: Tensor, mask_token: Tensor, position: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(tokens.dtype, mask_token.dtype), position.dtype)


def _launch(*args: Any) -> None:
    from .triton.rows import assemble_decoder_tokens

    assemble_decoder_tokens(*args)


def _check(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor) -> None:
    check_index_values(visible, "visible", position.shape[0])
    check_index_values(decoded, "decoded", position.shape[0])


_op = define_op("assemble_decoder_tokens", _reference, _allocate, _launch, _check)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    tokens, mask_token, position, visible, decoded = inputs
    ctx.dtypes = tokens.dtype, mask_token.dtype, position.dtype
    ctx.num_tokens = position.shape[0]
    ctx.save_for_backward(visible, decoded)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    visible, decoded = ctx.saved_tensors
    of_tokens, of_masks = grad[:, : visible.shape[1]], grad[:, visible.shape[1] :]
    grads: list[Tensor | None] = [None] * 5
    if ctx.needs_input_grad[0]:
        grads[0] = of_tokens.to(ctx.dtypes[0])
    if ctx.needs_input_grad[1]:
        grads[1] = of_masks.sum(dim=(0, 1)).to(ctx.dtypes[1])
    if ctx.needs_input_grad[2]:
        placed = scatter_op(of_tokens, visible, ctx.num_tokens, None).sum(0)
        placed += scatter_op(of_masks, decoded, ctx.num_tokens, None).sum(0)
        grads[2] = placed.to(ctx.dtypes[2])
    return tuple(grads)


_op.register_autograd(_backward, setup_context=_setup_context)


def assemble_decoder_tokens(
    tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor
) -> Tensor:
    """The decoder's input: encoder outputs, then mask tokens, each with its position.

        out = concat([tokens + position[visible], mask_token + position[decoded]], dim=1)

    Visible tokens come first, without un-shuffling. Differentiable in the three floating tensors: a slice for the
    tokens, a sum in fixed order for the mask token, per-sample scatters for a learnable table.

    Args:
        tokens: (B, V, d) floating encoder outputs, of any strides.
        mask_token: (d,) floating.
        position: (N, d) floating, one table for the batch, fixed or learnable.
        visible: (B, V) int32 or int64 token numbers of `tokens`, unique per sample.
        decoded: (B, M) int32 or int64 token numbers to predict, unique per sample.

    Returns:
        (B, V + M, d) contiguous, of the dtype that PyTorch promotes the three floating inputs to.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        `PretrainVisionTransformer.forward` of VideoMAE V2, models/modeling_pretrain.py (OpenGVLab/VideoMAEv2).
    """
    check_tensor(tokens, "tokens", FLOATING, ("B", "V", "d"))
    batch, _, width = tokens.shape
    check_tensor(mask_token, "mask_token", FLOATING, (width,), tokens)
    check_tensor(position, "position", FLOATING, ("N", width), tokens)
    visible = check_index(visible, "visible", batch=batch, limit=position.shape[0], like=tokens)
    check_shape(visible, "visible", tokens.shape[:2])
    decoded = check_index(decoded, "decoded", batch=batch, limit=position.shape[0], like=tokens)
    return _op(tokens, mask_token, position, visible, decoded)
