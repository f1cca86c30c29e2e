"""rms_norm and add_rms_norm: RMSNorm of token rows, with the addition of a scaled residual branch in the same pass."""

from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .norm import check_norm

Two = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


def _reference(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Two:
    wide = arithmetic_dtype(x)
    rows = x.to(wide).contiguous()
    rstd = (rows.square().mean(-1) + eps).rsqrt()
    return (rows * rstd.unsqueeze(-1)).mul_(weight.to(wide)).to(dtype), rstd


def _allocate(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Two:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[:-1], dtype=arithmetic_dtype(x))


def _launch(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, y: Tensor, rstd: Tensor) -> None:
    from .triton.rms_norm import rms_norm

    rms_norm(x, None, None, weight, eps, None, y, rstd)


def _add_reference(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> Three:
    wide = arithmetic_dtype(x)
    added = branch if scale is None else branch.to(wide) * scale.to(wide)
    total = torch.add(x, added).to(x.dtype).contiguous()
    return total, *_reference(total, weight, eps, dtype)


def _add_allocate(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> Three:
    return x.new_empty(x.shape), *_allocate(x, weight, eps, dtype)


def _add_launch(
    x: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    *outputs: Tensor,
) -> None:
    from .triton.rms_norm import rms_norm

    rms_norm(x, branch, scale, weight, eps, *outputs)


def _backward_reference(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    branch_dtype: torch.dtype,
    of_weight: bool,
) -> Three:
    wide = rstd.dtype
    unit, slope = total.to(wide).contiguous() * rstd.unsqueeze(-1), grad.to(wide).contiguous()
    sums = [_over_rows(slope * unit)] if of_weight else []
    slope = slope * weight.to(wide)
    along = (slope * unit).mean(-1, keepdim=True)
    of_sum = torch.addcmul(slope, unit, along, value=-1).mul_(rstd.unsqueeze(-1))
    if grad_total is not None:
        of_sum += grad_total
    if branch is not None:
        sums.append(_over_rows(of_sum * branch.to(wide)))
    other = total.new_empty(0)
    if scale is not None or branch_dtype != total.dtype:
        other = (of_sum if scale is None else of_sum * scale.to(wide)).to(branch_dtype)
    return of_sum.to(total.dtype), other, torch.stack(sums) if sums else rstd.new_empty(0)


def _over_rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).sum(0) if x.ndim > 1 else x


def _backward_allocate(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    branch_dtype: torch.dtype,
    of_weight: bool,
) -> Three:
    apart = scale is not None or branch_dtype != total.dtype
    other = total.new_empty(total.shape if apart else 0, dtype=branch_dtype)
    count = of_weight + (branch is not None)
    return total.new_empty(total.shape), other, rstd.new_empty((count, total.shape[-1]) if count else 0)


def _backward_launch(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    branch_dtype: torch.dtype,
    of_weight: bool,
    *outputs: Tensor,
) -> None:
    from .triton.rms_norm import rms_norm_backward

    rms_norm_backward(grad_total, grad, total, rstd, weight, branch, scale, of_weight, *outputs)


_op = define_op("rms_norm", _reference, _allocate, _launch)
_add_op = define_op("add_rms_norm", _add_reference, _add_allocate, _add_launch)
_backward_op = define_op("rms_norm_backward", _backward_reference, _backward_allocate, _backward_launch)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Two) -> None:
    _keep(ctx, inputs[0], output[1], inputs[1], None, None)


def _add_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    _, branch, scale, weight, *_ = inputs
    ctx.branch_dtype = branch.dtype
    _keep(ctx, output[0], output[2], weight, branch if ctx.needs_input_grad[2] else None, scale)


def _keep(ctx: Any, total: Tensor, rstd: Tensor, weight: Tensor, branch: Tensor | None, scale: Tensor | None) -> None:
    """Keep what backward reads: the rows before they are normalised, a number of each; the branch, for the scale."""
    ctx.set_materialize_grads(False)  # a gradient that does not exist is neither made nor read
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(total, rstd, weight, branch, scale)


def _backward(ctx: Any, grad: Tensor | None, *of_rstd: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    total, rstd, weight, _, _ = ctx.saved_tensors
    needed = ctx.needs_input_grad[1]
    of_x, _, sums = _backward_op(None, grad, total, rstd, weight, None, None, total.dtype, needed)
    return of_x, sums[0].to(weight.dtype) if needed else None, None, None


def _add_backward(
    ctx: Any, grad_total: Tensor | None, grad: Tensor | None, *of_rstd: None
) -> tuple[Tensor | None, ...]:
    total, rstd, weight, branch, scale = ctx.saved_tensors  # read once, as activation checkpointing demands
    if grad is None:
        return grad_total, *_of_addition(grad_total, branch, scale, ctx.branch_dtype), None, None, None
    needed = ctx.needs_input_grad[3]
    of_x, other, sums = _backward_op(grad_total, grad, total, rstd, weight, branch, scale, ctx.branch_dtype, needed)
    of_branch = of_x if scale is None and ctx.branch_dtype == of_x.dtype else other
    of_scale = None if branch is None or scale is None else sums[-1].to(scale.dtype)
    return of_x, of_branch, of_scale, sums[0].to(weight.dtype) if needed else None, None, None


def _of_addition(
    grad: Tensor | None, branch: Tensor | None, scale: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of branch and scale where nobody needs that of the normalised rows."""
    if grad is None:
        return None, None
    if scale is None:
        return grad.to(dtype), None
    wide = grad.to(arithmetic_dtype(grad))
    of_scale = None if branch is None else _over_rows(wide * branch).to(scale.dtype)
    return (wide * scale).to(dtype), of_scale


_op.register_autograd(_backward, setup_context=_setup_context)
_add_op.register_autograd(_add_backward, setup_context=_add_setup_context)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5, dtype: torch.dtype | None = None) -> Tensor:
    """RMSNorm over the last dimension, with the result in any precision.

        y = x / √(mean(x²) + eps) · weight,    mean over each row of x

    Equals `F.rms_norm(x, (D,), weight, eps).to(dtype)`. Statistics and arithmetic are float32, and y is rounded once,
    so that autocast needs no float32 copy of x or of y. Backward keeps x, as it lies in memory, and one float32 number
    of each row. Differentiable in x and weight.

    On the sum that `add_rms_norm` returns this gives the normalised rows that `add_rms_norm` returned, bitwise unless
    `dtype` is wider than that of x: backward can make them from the sum instead of keeping them.

    Args:
        x: (…, D) floating, of any strides.
        weight: (D,) floating, in the dtype of x or, under autocast, in float32.
        eps: number added to the mean square, at least 0.
        dtype: of the result; None is the dtype of x. Autocast has no say in it.

    Returns:
        (…, D) contiguous, of `dtype`.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Root mean square layer normalization (arXiv 1910.07467), equation 4; `RMSNorm` of InternVideo2,
        InternVideo2/single_modality/models/internvideo2.py (OpenGVLab/InternVideo), which also rounds before the
        product with the weight.
    """
    eps, dtype = check_norm(x, weight, eps, dtype)
    return _op(x, weight, eps, dtype)[0]


def add_rms_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """LayerScale, residual addition and the RMSNorm that follows, in one pass over the rows.

        sum = x + scale · branch, rounded to the dtype of x
        y = sum / √(mean(sum²) + eps) · weight,    mean over each row of sum

    Equals `sum = (x + scale * branch).to(x.dtype); y = rms_norm(sum, weight, eps, dtype)` in float32. Backward is one
    pass, too: the gradient of the sum is that which comes for it plus that through the norm; it is written once as the
    gradient of x and, scaled or in another dtype, once as that of the branch. Backward keeps sum and one float32 number
    of each row; with a scale that needs a gradient also the branch as it came, in its own dtype. Differentiable in all
    tensors.

    Args:
        x: (…, D) floating, the residual stream, of any strides.
        branch: (…, D) floating, what is added to it, of any strides.
        weight: (D,) floating, in the dtype of x or, under autocast, in float32.
        eps: number added to the mean square, at least 0.
        dtype: of y; None is the dtype of x. Autocast has no say in it.
        scale: (D,) floating, LayerScale's gamma; None is 1.

    Returns:
        sum (…, D) of the dtype of x, and y (…, D) of `dtype`, both contiguous.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Root mean square layer normalization (arXiv 1910.07467), equation 4; LayerScale (arXiv 2103.17239), equation 4;
        `Block.forward` of InternVideo2, InternVideo2/single_modality/models/internvideo2.py (OpenGVLab/InternVideo).
    """
    eps, dtype = check_norm(x, weight, eps, dtype)
    check_tensor(branch, "branch", FLOATING, tuple(x.shape), x)
    if scale is not None:
        check_tensor(scale, "scale", FLOATING, tuple(x.shape[-1:]), x)
    total, y, _ = _add_op(x, branch, scale, weight, eps, dtype)
    return total, y
