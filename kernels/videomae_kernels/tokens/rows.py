"""gather_tokens and masked_token_scatter: rows taken from a grid of tokens and put back, each the other's gradient."""

from typing import Any

import torch
from torch import Tensor

from .._checks import COPIED, check_count, check_index, check_shape, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .._values import check_index_values


def _gather_reference(x: Tensor, index: Tensor) -> Tensor:
    out = _gather_allocate(x, index)
    for sample, listed, rows in zip(x, index, out, strict=True):  # no offsets to add, and no second copy
        torch.index_select(sample, 0, listed, out=rows)
    return out


def _gather_allocate(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], index.shape[1], x.shape[2]))


def _gather_launch(x: Tensor, index: Tensor, out: Tensor) -> None:
    from .triton.rows import gather_tokens

    gather_tokens(x, index, out)


def _gather_check(x: Tensor, index: Tensor) -> None:
    check_index_values(index, "index", x.shape[1])


gather_op = define_op("gather_tokens", _gather_reference, _gather_allocate, _gather_launch, _gather_check)


def _gather_setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.num_tokens = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return scatter_op(grad, index, ctx.num_tokens, None), None


gather_op.register_autograd(_gather_backward, setup_context=_gather_setup_context)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """The listed rows of a token tensor.

        out[b, k] = x[b, index[b, k]]

    Equals `x.gather(1, index[..., None].expand(-1, -1, D))` without the repeated index, and
    `x[~mask].reshape(B, K, D)` without its host sync. Differentiable in x, by `masked_token_scatter` into zeros.

    Args:
        x: (B, N, D) of any real dtype and any strides; a table expanded over the batch is never copied.
        index: (B, K) int32 or int64 row numbers in [0, N), unique per sample, in any order.

    Returns:
        (B, K, D) contiguous, of the dtype of x.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: `x` is no real tensor, or `index` is not of integers.

    References:
        `x[~mask].reshape(B, -1, C)` of VideoMAE V2, models/modeling_pretrain.py (OpenGVLab/VideoMAEv2).
    """
    check_tensor(x, "x", COPIED, ("B", "N", "D"))
    index = check_index(index, "index", batch=x.shape[0], limit=x.shape[1], like=x)
    return gather_op(x, index)


def _scatter_reference(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> Tensor:
    out = _scatter_allocate(tokens, index, num_tokens, mask_token)
    out.copy_(mask_token) if mask_token is not None else out.zero_()
    sample = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    out[sample, index] = tokens
    return out


def _scatter_allocate(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> Tensor:
    return tokens.new_empty((tokens.shape[0], num_tokens, tokens.shape[2]))


def _scatter_launch(*args: Any) -> None:
    from .triton.rows import masked_token_scatter

    masked_token_scatter(*args)


def _scatter_check(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> None:
    check_index_values(index, "index", num_tokens)


scatter_op = define_op("masked_token_scatter", _scatter_reference, _scatter_allocate, _scatter_launch, _scatter_check)


def _scatter_setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
    (index,) = ctx.saved_tensors
    needs_tokens, _, _, needs_mask_token = ctx.needs_input_grad
    of_tokens = gather_op(grad, index)
    of_mask_token = None
    if needs_mask_token:
        # All rows less the listed ones: no (B, N, D) temporary, and torch's sums repeat bitwise.
        dtype = arithmetic_dtype(grad)
        of_mask_token = (grad.sum((0, 1), dtype=dtype) - of_tokens.sum((0, 1), dtype=dtype)).to(grad.dtype)
    return of_tokens if needs_tokens else None, None, None, of_mask_token


scatter_op.register_autograd(_scatter_backward, setup_context=_scatter_setup_context)


def masked_token_scatter(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None = None) -> Tensor:
    """Tokens put back into the full grid, everything else a mask token.

        out[b, index[b, k]] = tokens[b, k];    out[b, n] = mask_token (or 0) for every other n

    Equals `mask_token.expand(B, N, D).clone().scatter(1, index[..., None].expand(-1, -1, D), tokens)` with every row
    written once. Differentiable in tokens, by `gather_tokens`, and in mask_token, by the sum over the other rows.

    Args:
        tokens: (B, K, D) of any real dtype and any strides.
        index: (B, K) int32 or int64 row numbers in [0, N), unique per sample, in any order.
        num_tokens: N, below 2³¹.
        mask_token: (D,) of the dtype of `tokens`; None fills with zeros.

    Returns:
        (B, N, D) contiguous, of the dtype of `tokens`.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: `tokens` is no real tensor, `index` is not of integers, `num_tokens` is no integer, or `mask_token`
            has another dtype than `tokens`.

    References:
        The decoder input of MAE (arXiv 2111.06377, section 3): mask tokens placed by un-shuffling.
    """
    check_tensor(tokens, "tokens", COPIED, ("B", "K", "D"))
    num_tokens = check_count(num_tokens, "num_tokens")
    index = check_index(index, "index", batch=tokens.shape[0], limit=num_tokens, like=tokens)
    check_shape(index, "index", tokens.shape[:2])
    if mask_token is not None:
        check_tensor(mask_token, "mask_token", COPIED, tokens.shape[2:], tokens)
        if mask_token.dtype != tokens.dtype:
            raise TypeError(f"mask_token must have the dtype of tokens, {tokens.dtype}, got {mask_token.dtype}")
    return scatter_op(tokens, index, num_tokens, mask_token)
