"""layer_norm and add_layer_norm: LayerNorm of token rows, with the residual addition before it in the same pass."""

from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_dtype, check_number, check_tensor
from .._custom_op import arithmetic_dtype, define_op

Stats = tuple[Tensor, Tensor, Tensor]  # normalised rows, means, reciprocal standard deviations


def _reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Stats:
    wide = arithmetic_dtype(x)
    rows, weight, bias = x.to(wide).contiguous(), weight.to(wide), bias.to(wide)
    y, mean, rstd = torch.native_layer_norm(rows, x.shape[-1:], weight, bias, eps)
    return y.to(dtype), mean.squeeze(-1), rstd.squeeze(-1)


def _allocate(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Stats:
    stats = arithmetic_dtype(x)
    mean, rstd = (x.new_empty(x.shape[:-1], dtype=stats) for _ in range(2))
    return x.new_empty(x.shape, dtype=dtype), mean, rstd


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, y: Tensor, mean: Tensor, rstd: Tensor
) -> None:
    from .triton.norm import layer_norm

    layer_norm(x, None, weight, bias, eps, None, y, mean, rstd)


def _add_reference(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = torch.add(x, branch).to(x.dtype).contiguous()
    return total, *_reference(total, weight, bias, eps, dtype)


def _add_allocate(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), *_allocate(x, weight, bias, eps, dtype)


def _add_launch(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, *outputs: Tensor
) -> None:
    from .triton.norm import layer_norm

    layer_norm(x, branch, weight, bias, eps, *outputs)


def _backward_reference(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
    parameters: bool,
) -> Stats:
    wide = mean.dtype
    of_sum, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        grad.to(wide).contiguous(),
        total.to(wide).contiguous(),
        total.shape[-1:],
        mean.unsqueeze(-1),
        rstd.unsqueeze(-1),
        weight.to(wide),
        weight.to(wide),  # of a bias only its being there counts
        [True, parameters, parameters],
    )
    if grad_total is not None:
        of_sum += grad_total
    other = of_sum.to(branch_dtype) if branch_dtype != total.dtype else total.new_empty(0)
    sums = torch.stack((of_weight, of_bias)) if parameters else mean.new_empty(0)
    return of_sum.to(total.dtype), other, sums


def _backward_allocate(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
    parameters: bool,
) -> Stats:
    other = total.new_empty(total.shape if branch_dtype != total.dtype else 0, dtype=branch_dtype)
    sums = mean.new_empty((2, total.shape[-1]) if parameters else 0)
    return total.new_empty(total.shape), other, sums


def _backward_launch(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
    parameters: bool,
    *outputs: Tensor,
) -> None:
    from .triton.norm import layer_norm_backward

    layer_norm_backward(grad_total, grad, total, mean, rstd, weight, *outputs)


_op = define_op("layer_norm", _reference, _allocate, _launch)
_add_op = define_op("add_layer_norm", _add_reference, _add_allocate, _add_launch)
_backward_op = define_op("layer_norm_backward", _backward_reference, _backward_allocate, _backward_launch)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Stats) -> None:
    _keep(ctx, inputs[0], inputs[1], output[1:])


def _add_setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.branch_dtype = inputs[1].dtype
    _keep(ctx, output[0], inputs[2], output[2:])


def _keep(ctx: Any, total: Tensor, weight: Tensor, stats: tuple[Tensor, ...]) -> None:
    """Keep what backward reads: the rows before they are normalised, and two numbers of each."""
    ctx.set_materialize_grads(False)  # a gradient that does not exist is neither made nor read
    ctx.mark_non_differentiable(*stats)
    ctx.save_for_backward(total, *stats, weight)


def _backward(ctx: Any, grad: Tensor | None, *of_stats: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    of_x, _, of_weight, of_bias = _gradients(ctx, None, grad, None, ctx.needs_input_grad[1:3])
    return of_x, of_weight, of_bias, None, None


def _add_backward(
    ctx: Any, grad_total: Tensor | None, grad: Tensor | None, *of_stats: None
) -> tuple[Tensor | None, ...]:
    if grad is None:
        of_branch = None if grad_total is None else grad_total.to(ctx.branch_dtype)
        return grad_total, of_branch, None, None, None, None
    gradients = _gradients(ctx, grad_total, grad, ctx.branch_dtype, ctx.needs_input_grad[2:4])
    return *gradients, None, None


def _gradients(
    ctx: Any, grad_total: Tensor | None, grad: Tensor, branch_dtype: torch.dtype | None, needed: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, branch, weight and bias."""
    total, mean, rstd, weight = ctx.saved_tensors  # read once, as activation checkpointing demands
    branch_dtype = branch_dtype or total.dtype
    of_x, other, sums = _backward_op(grad_total, grad, total, mean, rstd, weight, branch_dtype, any(needed))
    of_branch = of_x if branch_dtype == of_x.dtype else other
    of_weight, of_bias = (sums[i].to(weight.dtype) if needed[i] else None for i in range(2))
    return of_x, of_branch, of_weight, of_bias


_op.register_autograd(_backward, setup_context=_setup_context)
_add_op.register_autograd(_add_backward, setup_context=_add_setup_context)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, dtype: torch.dtype | None = None) -> Tensor:
    """LayerNorm over the last dimension, with the result in any precision.

        y = (x − mean) / √(variance + eps) · weight + bias,    mean and (biased) variance of each row of x

    Equals `F.layer_norm(x, (D,), weight, bias, eps).to(dtype)`. Statistics and arithmetic are float32, and y is rounded
    once, so that autocast needs no float32 copy of x or of y. Backward keeps x and two float32 numbers of each row.
    Differentiable in x, weight and bias.

    On the sum that `add_layer_norm` returns this gives the normalised rows that `add_layer_norm` returned, bitwise
    unless `dtype` is wider than that of x: backward can make them from the sum instead of keeping them.

    Args:
        x: (…, D) floating, of any strides.
        weight: (D,) floating, in the dtype of x or, under autocast, in float32.
        bias: (D,) of the dtype of `weight`.
        eps: number added to the variance, at least 0.
        dtype: of the result; None is the dtype of x. Autocast has no say in it.

    Returns:
        (…, D) contiguous, of `dtype`.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Layer normalization (arXiv 1607.06450), equation 4; `Block.forward` of VideoMAE V2,
        models/modeling_finetune.py (OpenGVLab/VideoMAEv2).
    """
    eps, dtype = check_layer_norm(x, weight, bias, eps, dtype)
    return _op(x, weight, bias, eps, dtype)[0]


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Residual addition and the LayerNorm that follows it, in one pass over the rows.

        sum = x + branch, rounded to the dtype of x
        y = (sum − mean) / √(variance + eps) · weight + bias,    mean and (biased) variance of each row of sum

    Equals `sum = (x + branch).to(x.dtype); y = layer_norm(sum, weight, bias, eps, dtype)`. Backward is one pass, too:
    the gradient of x and of branch is that of sum plus that through the norm, written once in each of their dtypes.
    Backward keeps sum and two float32 numbers of each row. Differentiable in all four tensors.

    Args:
        x: (…, D) floating, the residual stream, of any strides.
        branch: (…, D) floating, what is added to it, of any strides.
        weight: (D,) floating, in the dtype of x or, under autocast, in float32.
        bias: (D,) of the dtype of `weight`.
        eps: number added to the variance, at least 0.
        dtype: of y; None is the dtype of x. Autocast has no say in it.

    Returns:
        sum (…, D) of the dtype of x, and y (…, D) of `dtype`, both contiguous.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Layer normalization (arXiv 1607.06450), equation 4; `Block.forward` of VideoMAE V2,
        models/modeling_finetune.py (OpenGVLab/VideoMAEv2).
    """
    eps, dtype = check_layer_norm(x, weight, bias, eps, dtype)
    check_tensor(branch, "branch", FLOATING, tuple(x.shape), x)
    total, y, _, _ = _add_op(x, branch, weight, bias, eps, dtype)
    return total, y


def check_layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None
) -> tuple[float, torch.dtype]:
    """Check the arguments that LayerNorms share; eps and the dtype of the result."""
    checked = check_norm(x, weight, eps, dtype)
    check_tensor(bias, "bias", FLOATING, tuple(x.shape[-1:]), x)
    if bias.dtype != weight.dtype:
        raise TypeError(f"bias must have the dtype of weight, {weight.dtype}, got {bias.dtype}")
    return checked


def check_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None) -> tuple[float, torch.dtype]:
    """What every norm checks: rows x (…, D), weight (D,), eps and the dtype of the result; returns the last two."""
    rows = tuple(x.shape[:-1]) if isinstance(x, Tensor) else ()
    check_tensor(x, "x", FLOATING, (*rows, "D"))
    check_tensor(weight, "weight", FLOATING, tuple(x.shape[-1:]), x)
    if weight.numel() == 0:
        raise ValueError("weight must have at least one element, got shape (0,)")
    eps = check_number(eps, "eps")
    if eps < 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    return eps, x.dtype if dtype is None else check_dtype(dtype)
