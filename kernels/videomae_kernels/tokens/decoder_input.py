"""assemble_decoder_tokens: the decoder's input sequence, written once.

    out = concat([tokens + position[visible], mask_token + position[decode]], dim=1)

tokens (B, V, d) encoder outputs, mask_token (d,), position (N, d) one table for the batch, visible (B, V) and
decode (B, M) indices. The result (B, V + M, d) has the dtype PyTorch promotes the three floating inputs to:
visible tokens first, then mask tokens, no un-shuffling (VideoMAE V2, `PretrainVisionTransformer.forward`).
Backward: a slice for the tokens, a sum in fixed order for the mask token, per-sample scatters for a learnable table.
"""

from typing import Any

import torch
from torch import Tensor

from .._checks import check_device, check_floating, check_index, check_shape
from .._custom_op import define_op
from .rows import masked_token_scatter


def _reference(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decode: Tensor) -> Tensor:
    out = _allocate(tokens, mask_token, position, visible, decode)
    split = visible.shape[1]
    torch.add(tokens, position[visible], out=out[:, :split])
    torch.add(mask_token, position[decode], out=out[:, split:])
    return out


def _allocate(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decode: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(tokens.dtype, mask_token.dtype), position.dtype)
    rows = visible.shape[1] + decode.shape[1]
    return tokens.new_empty((tokens.shape[0], rows, tokens.shape[2]), dtype=dtype)


def _launch(*args: Any) -> None:
    from .triton import assemble_decoder_tokens

    assemble_decoder_tokens(*args)


_op = define_op("assemble_decoder_tokens", _reference, _allocate, _launch)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    tokens, mask_token, position, visible, decode = inputs
    ctx.dtypes = tokens.dtype, mask_token.dtype, position.dtype
    ctx.num_tokens = position.shape[0]
    ctx.save_for_backward(visible, decode)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    visible, decode = ctx.saved_tensors
    of_tokens, of_masks = grad[:, : visible.shape[1]], grad[:, visible.shape[1] :]
    grads: list[Tensor | None] = [None] * 5
    if ctx.needs_input_grad[0]:
        grads[0] = of_tokens.to(ctx.dtypes[0])
    if ctx.needs_input_grad[1]:
        grads[1] = of_masks.sum(dim=(0, 1)).to(ctx.dtypes[1])
    if ctx.needs_input_grad[2]:
        placed = masked_token_scatter(of_tokens, visible, ctx.num_tokens).sum(0)
        placed += masked_token_scatter(of_masks, decode, ctx.num_tokens).sum(0)
        grads[2] = placed.to(ctx.dtypes[2])
    return tuple(grads)


_op.register_autograd(_backward, setup_context=_setup_context)


def assemble_decoder_tokens(
    tokens: Tensor,  # (B, V, d) floating
    mask_token: Tensor,  # (d,) floating
    position: Tensor,  # (N, d) floating
    visible: Tensor,  # (B, V) int32/int64
    decode: Tensor,  # (B, M) int32/int64
) -> Tensor:  # (B, V + M, d)
    """The decoder's input: latent tokens, then mask tokens, each with its position; see the module docstring."""
    if tokens.ndim != 3:
        raise ValueError(f"tokens must have shape (B, V, d), got {tuple(tokens.shape)}")
    batch, _, width = tokens.shape
    check_shape(mask_token, "mask_token", (width,))
    check_shape(position, "position", (position.shape[0], width))
    for tensor, name in ((tokens, "tokens"), (mask_token, "mask_token"), (position, "position")):
        check_floating(tensor, name)
        check_device(tensor, name, tokens)
    visible = check_index(visible, "visible", batch=batch, limit=position.shape[0], like=tokens)
    check_shape(visible, "visible", tokens.shape[:2])
    decode = check_index(decode, "decode", batch=batch, limit=position.shape[0], like=tokens)
    return _op(tokens, mask_token, position, visible, decode)
