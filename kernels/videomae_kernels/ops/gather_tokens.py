"""gather_tokens: the kept rows of a token tensor.

    out[b, k] = x[b, index[b, k]]

x (B, N, D) of any dtype and strides (a table expanded over the batch is never copied), index (B, K) int32 or
int64, unique per sample. Equals `x.gather(1, index[..., None].expand(-1, -1, D))` without the repeated index,
and `x[~mask].reshape(B, K, D)` without its synchronisation. Backward is `masked_token_scatter` into zeros.
"""

from typing import Any

import torch
from torch import Tensor

from .._checks import check_index
from .._registration import define_op


def _reference(x: Tensor, index: Tensor) -> Tensor:
    sample = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[sample, index].contiguous()


def _allocate(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], index.shape[1], x.shape[2]))


_op = define_op("gather_tokens", _reference, _allocate, "token_rows:gather_tokens")


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.num_tokens = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    from .masked_token_scatter import masked_token_scatter

    (index,) = ctx.saved_tensors
    return masked_token_scatter(grad, index, ctx.num_tokens), None


_op.register_autograd(_backward, setup_context=_setup_context)


def gather_tokens(
    x: Tensor,  # (B, N, D)
    index: Tensor,  # (B, K) int32/int64, unique per sample
) -> Tensor:  # (B, K, D), dtype of x
    """Rows `index` of each sample of `x`; see the module docstring for the mathematics."""
    if x.ndim != 3:
        raise ValueError(f"x must have shape (B, N, D), got {tuple(x.shape)}")
    index = check_index(index, "index", batch=x.shape[0], limit=x.shape[1], like=x)
    return _op(x, index)
