"""masked_token_scatter: tokens put back into the full grid, everything else a mask token.

    out[b, index[b, k]] = tokens[b, k];    out[b, n] = mask_token (or 0) for every other n

tokens (B, K, D), index (B, K) int32 or int64, unique per sample, mask_token (D,) or None. Equals
`mask_token.expand(B, N, D).clone().scatter(1, index[..., None].expand(-1, -1, D), tokens)` with every row
written once. Backward: `gather_tokens` for the tokens, the sum over the other rows for the mask token.
"""

from typing import Any

import torch
from torch import Tensor

from .._checks import check_device, check_index, check_shape
from .._registration import define_op
from ._pixels import arithmetic_dtype
from .gather_tokens import gather_tokens


def _reference(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> Tensor:
    out = _allocate(tokens, index, num_tokens, mask_token)
    out.copy_(mask_token) if mask_token is not None else out.zero_()
    sample = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    out[sample, index] = tokens
    return out


def _allocate(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> Tensor:
    return tokens.new_empty((tokens.shape[0], num_tokens, tokens.shape[2]))


_op = define_op("masked_token_scatter", _reference, _allocate, "token_rows:masked_token_scatter")


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
    (index,) = ctx.saved_tensors
    needs_tokens, _, _, needs_mask_token = ctx.needs_input_grad
    of_tokens = gather_tokens(grad, index)
    of_mask_token = None
    if needs_mask_token:
        # All rows less the listed ones: no (B, N, D) temporary, and torch's sums repeat bitwise.
        dtype = arithmetic_dtype(grad)
        of_mask_token = (grad.sum((0, 1), dtype=dtype) - of_tokens.sum((0, 1), dtype=dtype)).to(grad.dtype)
    return of_tokens if needs_tokens else None, None, None, of_mask_token


_op.register_autograd(_backward, setup_context=_setup_context)


def masked_token_scatter(
    tokens: Tensor,  # (B, K, D)
    index: Tensor,  # (B, K) int32/int64, unique per sample
    num_tokens: int,  # N
    mask_token: Tensor | None = None,  # (D,), dtype of tokens
) -> Tensor:  # (B, N, D), dtype of tokens
    """`tokens` at rows `index` of a (B, N, D) grid filled with `mask_token`; see the module docstring."""
    if tokens.ndim != 3:
        raise ValueError(f"tokens must have shape (B, K, D), got {tuple(tokens.shape)}")
    index = check_index(index, "index", batch=tokens.shape[0], limit=num_tokens, like=tokens)
    check_shape(index, "index", tokens.shape[:2])
    if mask_token is not None:
        check_shape(mask_token, "mask_token", tokens.shape[2:])
        check_device(mask_token, "mask_token", tokens)
        if mask_token.dtype != tokens.dtype:
            raise TypeError(f"mask_token must have the dtype of tokens, {tokens.dtype}, got {mask_token.dtype}")
    return _op(tokens, index, num_tokens, mask_token)
