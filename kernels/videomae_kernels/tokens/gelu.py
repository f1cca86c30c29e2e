"""bias_gelu: the activation of an MLP with the bias before it, whose gradient comes from the same pass."""

from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_tensor
from .._custom_op import arithmetic_dtype, define_op


def _biased(x: Tensor, bias: Tensor) -> Tensor:
    dtype = arithmetic_dtype(x, bias)
    return torch.add(x.to(dtype).contiguous(), bias.to(dtype))


def _reference(x: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(_biased(x, bias)).to(x.dtype)


def _allocate(x: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _launch(x: Tensor, bias: Tensor, out: Tensor) -> None:
    from .triton.gelu import bias_gelu

    bias_gelu(x, bias, out)


def _backward_reference(grad: Tensor, x: Tensor, bias: Tensor, needs_bias: bool) -> tuple[Tensor, Tensor]:
    biased = _biased(x, bias)
    of_x = torch.ops.aten.gelu_backward.grad_input(grad.to(biased.dtype), biased, grad_input=biased)
    of_bias = of_x[None].sum(tuple(range(of_x.ndim))) if needs_bias else biased.new_empty(0)
    return of_x.to(x.dtype), of_bias


def _backward_allocate(grad: Tensor, x: Tensor, bias: Tensor, needs_bias: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(bias.shape if needs_bias else 0, dtype=arithmetic_dtype(x, bias))


def _backward_launch(grad: Tensor, x: Tensor, bias: Tensor, needs_bias: bool, *outputs: Tensor) -> None:
    from .triton.gelu import bias_gelu_backward

    bias_gelu_backward(grad, x, bias, *outputs)


_op = define_op("bias_gelu", _reference, _allocate, _launch)
_backward_op = define_op("bias_gelu_backward", _backward_reference, _backward_allocate, _backward_launch)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, bias = ctx.saved_tensors
    of_x, of_bias = _backward_op(grad, x, bias, ctx.needs_input_grad[1])
    return of_x, of_bias.to(bias.dtype) if ctx.needs_input_grad[1] else None


_op.register_autograd(_backward, setup_context=_setup_context)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """GELU (erf) of x + bias, with the gradients of both in one pass.

        z = x + bias,    out = z · Φ(z),    Φ(z) = (1 + erf(z / √2)) / 2
        ∂/∂x = grad · (Φ(z) + z · φ(z)),    ∂/∂bias = its sum over all rows

    Equals `F.gelu(x + bias)`, computed in float32 and rounded once. Give it the result of a linear map without its
    bias: the bias's gradient then needs no pass of its own, for which `F.linear` reads all hidden units once more.
    Without a bias there is nothing to fuse: `F.gelu` and its backward are one kernel each. Backward keeps x and bias.
    Differentiable in both.

    Args:
        x: (…, D) floating, of any strides.
        bias: (D,) floating, in the dtype of x or, under autocast, in float32.

    Returns:
        (…, D) contiguous, of the dtype of x. Autocast has no say in it.

    Raises:
        ValueError: a shape or device of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Gaussian error linear units (arXiv 1606.08415); `Mlp.forward` of VideoMAE V2, models/modeling_finetune.py
        (OpenGVLab/VideoMAEv2).
    """
    rows = tuple(x.shape[:-1]) if isinstance(x, Tensor) else ()
    check_tensor(x, "x", FLOATING, (*rows, "D"))
    check_tensor(bias, "bias", FLOATING, tuple(x.shape[-1:]), x)
    return _op(x, bias)
