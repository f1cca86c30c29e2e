"""alignment_loss: how far normalised rows point away from a teacher's, without keeping the normalised rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .norm import check_layer_norm

FLOOR = 1e-12  # of lengths, as in F.normalize
CACHED = 2**19  # elements of a piece of rows, for which the reference has a few tensors at a time


def _reference(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = arithmetic_dtype(x, target)
    weight, bias = weight.to(wide), bias.to(wide)
    losses, stats = _allocate(x, target, weight, bias, eps)
    x, target = _samples(x), _samples(target)
    mean, rstd, both, own = (stat.view(x.shape[:2]) for stat in stats)
    dot, length, other = (torch.empty_like(mean) for _ in range(3))
    for piece in _pieces(x):
        normed, *moments = torch.native_layer_norm(_wide(x[piece], wide), x.shape[2:], weight, bias, eps)
        teacher = _wide(target[piece], wide)
        mean[piece], rstd[piece] = (moment.squeeze(-1) for moment in moments)
        length[piece], other[piece] = (torch.linalg.vector_norm(rows, dim=-1) for rows in (normed, teacher))
        dot[piece] = normed.mul_(teacher).sum(-1)
    shrink = length.clamp_min(FLOOR).reciprocal_()
    torch.div(shrink, other.clamp_min_(FLOOR), out=both)
    cosine = dot.mul_(both)
    own.copy_(torch.where(length < FLOOR, 0, cosine * shrink * shrink))
    losses.view(cosine.shape).copy_(2 - 2 * cosine)
    return losses, stats


def _allocate(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Losses of the rows (…), and what backward needs to know of each (4, …).

    These are its mean and reciprocal standard deviation, 1 / (‖h‖·‖target‖), and cosine / ‖h‖².
    """
    dtype = arithmetic_dtype(x, target)
    return x.new_empty(x.shape[:-1], dtype=dtype), x.new_empty((4, *x.shape[:-1]), dtype=dtype)


def _launch(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float, losses: Tensor, stats: Tensor) -> None:
    from .triton.align import alignment_loss

    alignment_loss(x, target, weight, bias, eps, losses, stats)


def _backward_reference(
    grad: Tensor, x: Tensor, target: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, parameters: bool
) -> tuple[Tensor, Tensor]:
    wide = stats.dtype
    gain, shift = weight.to(wide), bias.to(wide)
    out, sums = _backward_allocate(grad, x, target, stats, weight, bias, parameters)
    sums.zero_()
    x, target, of_x = _samples(x), _samples(target), _samples(out)
    mean, rstd, both, own = stats.view(4, *x.shape[:2], 1)
    slope = 2 * grad.view(both.shape)
    both, own = both * slope, own * slope
    for piece in _pieces(x):
        rows = _wide(x[piece], wide)
        normed = torch.addcmul(shift, (rows - mean[piece]).mul_(rstd[piece]), gain)
        of_normed = normed.mul_(own[piece]).addcmul_(_wide(target[piece], wide), both[piece], value=-1)
        of_x[piece], *of_parameters = torch.ops.aten.native_layer_norm_backward(
            of_normed, rows, x.shape[2:], mean[piece], rstd[piece], gain, shift, [True, parameters, parameters]
        )
        if parameters:
            sums += torch.stack(of_parameters)
    return out, sums


def _backward_allocate(
    grad: Tensor, x: Tensor, target: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, parameters: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), stats.new_empty((2, x.shape[-1]) if parameters else 0)


def _backward_launch(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor,
    parameters: bool,
    *outputs: Tensor,
) -> None:
    from .triton.align import alignment_loss_backward

    alignment_loss_backward(grad, x, target, stats, weight, bias, *outputs)


def _samples(x: Tensor) -> Tensor:
    """A tensor (…, N, D) as (samples, N, D); one sample's last rows are not copied."""
    return x.reshape(-1, x.shape[-2] if x.ndim > 1 else 1, x.shape[-1])


def _pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and rows of (samples, N, D) that stay in cache together: no tensor is widened as a whole."""
    samples, rows, width = x.shape
    step = max(1, CACHED // width)
    together = max(1, step // rows)
    for sample in range(0, samples, together):
        for row in range(0, rows, step):
            yield slice(sample, sample + together), slice(row, row + step)


def _wide(piece: Tensor, dtype: torch.dtype) -> Tensor:
    return piece.to(dtype).contiguous()


_op = define_op("alignment_loss", _reference, _allocate, _launch)
_backward_op = define_op("alignment_loss_backward", _backward_reference, _backward_allocate, _backward_launch)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, target, weight, bias, _ = inputs
    ctx.set_materialize_grads(False)  # of the numbers of each row, which have none
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, target, output[1], weight, bias)


def _backward(ctx: Any, grad: Tensor | None, of_stats: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    x, target, stats, weight, bias = ctx.saved_tensors
    needed = ctx.needs_input_grad[2:4]
    of_x, sums = _backward_op(grad.contiguous(), x, target, stats, weight, bias, any(needed))
    of_weight, of_bias = (sums[i].to(weight.dtype) if needed[i] else None for i in range(2))
    return of_x, None, of_weight, of_bias, None


_op.register_autograd(_backward, setup_context=_setup_context)


def alignment_loss(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Squared distance of a student's rows from a teacher's on the unit sphere, after a LayerNorm of the student's.

        h = LayerNorm(x; weight, bias, eps)
        row = 2 − 2 · ⟨h, target⟩ / (‖h‖ · ‖target‖) = ‖h/‖h‖ − target/‖target‖‖²
        loss = mean of row

    Equals `(2 - 2 * (F.normalize(h, dim=-1) * F.normalize(target, dim=-1)).sum(-1)).mean()` in float32, with
    `h = F.layer_norm(x, (D,), weight, bias, eps)`; lengths below 1e-12 count as 1e-12 as there. Neither normalised
    tensor nor their product is stored. Backward keeps x, target and four float32 numbers of each row. Differentiable
    in x, weight and bias, not in target.

    Args:
        x: (…, D) floating, what a head predicts, of any strides.
        target: (…, D) floating, the teacher's rows as they are, of the shape of x and of any strides.
        weight: (D,) floating, of the LayerNorm.
        bias: (D,) of the dtype of `weight`.
        eps: number added to the variance, at least 0.

    Returns:
        Scalar float32; float64 on a CPU if x or target is. Autocast has no say in it.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed, or x has no rows.
        TypeError: a dtype of an argument is not allowed.

    References:
        InternVideo2 (arXiv 2403.15377), section 3.1; heads and loss of its first stage,
        InternVideo2/single_modality (OpenGVLab/InternVideo).
    """
    eps, _ = check_layer_norm(x, weight, bias, eps, None)
    check_tensor(target, "target", FLOATING, tuple(x.shape), x)
    if x.numel() == 0:
        raise ValueError(f"x has no rows, and a mean over no rows has no value: got shape {tuple(x.shape)}")
    losses, _ = _op(x, target, weight, bias, eps)
    return losses.mean()
