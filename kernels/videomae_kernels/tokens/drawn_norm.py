"""add_drawn_norm: add a branch that ran on drawn samples, and normalise the samples drawn for the next one."""

from typing import Any

import torch
from torch import Tensor

from .._checks import FLOATING, INT64, check_count, check_number, check_tensor
from .._custom_op import arithmetic_dtype, define_op
from .._values import check_range
from .norm import _reference as layer_norm
from .norm import check_layer_norm, check_norm
from .rms_norm import _reference as rms_norm

Three = tuple[Tensor, Tensor, Tensor]
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


MAX_FACTOR = 2**20  # squares of sums stay finite in float32


def _samples(place: Tensor | None, count: int, batch: int, device: torch.device) -> Tensor:
    """(count,) the samples that a drawn tensor holds, in its order."""
    return torch.arange(batch, device=device) if place is None else place.argsort()[:count]


def _reference(
    x: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    count: int,
) -> Five:
    wide, batch = arithmetic_dtype(x), x.shape[0]
    added = branch.to(wide) * (factor if scale is None else factor * scale.to(wide))
    total = x.to(wide).index_add(0, _samples(ran, branch.shape[0], batch, x.device), added).to(x.dtype).contiguous()
    rows = total if runs is None else total.index_select(0, _samples(runs, count, batch, x.device))
    if bias is None:
        (y, rstd), mean = rms_norm(rows, weight, eps, dtype), rows.new_empty(0, dtype=wide)
    else:
        y, mean, rstd = layer_norm(rows, weight, bias, eps, dtype)
    return total, total.new_empty(0) if runs is None else rows, y, mean, rstd


def _allocate(
    x: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    count: int,
) -> Five:
    shape, wide = (count, *x.shape[1:]), arithmetic_dtype(x)
    return (
        x.new_empty(x.shape),
        x.new_empty(0 if runs is None else shape),
        x.new_empty(shape, dtype=dtype),
        x.new_empty(0 if bias is None else shape[:2], dtype=wide),
        x.new_empty(shape[:2], dtype=wide),
    )


def _launch(
    x: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    count: int,
    *outputs: Tensor,
) -> None:
    from .triton.drawn_norm import add_drawn_norm

    add_drawn_norm(x, branch, scale, weight, bias, eps, factor, ran, runs, *outputs)


def _check_values(*arguments: Any) -> None:
    for place, name in zip(arguments[8:10], ("ran", "runs"), strict=True):
        if place is None:
            continue
        check_range(place, name, len(place))
        if len(place.unique()) < len(place):
            raise ValueError(f"{name} must have every number in [0, {len(place)}) once, got {place.tolist()[:8]} …")


def _backward_reference(
    grad_total: Tensor | None,
    grad: Tensor,
    rows: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    centered: bool,
    parameters: bool,
    batch: int,
    branch_samples: int,
    branch_dtype: torch.dtype,
) -> Three:
    wide, sums = rstd.dtype, []
    unit, slope = rows.to(wide), grad.to(wide)
    unit = (unit - mean.unsqueeze(-1) if centered else unit) * rstd.unsqueeze(-1)
    if parameters:
        sums += [(slope * unit).sum((0, 1)), *([slope.sum((0, 1))] if centered else [])]
    slope = slope * weight.to(wide)
    along = (slope * unit).mean(-1, keepdim=True)
    slope = slope - slope.mean(-1, keepdim=True) if centered else slope
    of_rows = (slope - unit * along) * rstd.unsqueeze(-1)
    of_total = of_rows.new_zeros((batch, *rows.shape[1:]))
    of_total = of_total.index_copy(0, _samples(runs, len(rows), batch, rows.device), of_rows)
    if grad_total is not None:
        of_total += grad_total
    of_added = of_total.index_select(0, _samples(ran, branch_samples, batch, rows.device)) * factor
    if branch is not None:
        sums.append((of_added * branch.to(wide)).sum((0, 1)))
    of_branch = of_added if scale is None else of_added * scale.to(wide)
    return of_total.to(rows.dtype), of_branch.to(branch_dtype), torch.stack(sums) if sums else rstd.new_empty(0)


def _backward_allocate(
    grad_total: Tensor | None,
    grad: Tensor,
    rows: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    centered: bool,
    parameters: bool,
    batch: int,
    branch_samples: int,
    branch_dtype: torch.dtype,
) -> Three:
    shape, count = rows.shape[1:], parameters * (1 + centered) + (branch is not None)
    return (
        rows.new_empty((batch, *shape)),
        rows.new_empty((branch_samples, *shape), dtype=branch_dtype),
        rstd.new_empty((count, shape[1]) if count else 0),
    )


def _backward_launch(*arguments: Any) -> None:
    from .triton.drawn_norm_backward import add_drawn_norm_backward

    add_drawn_norm_backward(*arguments[:13], *arguments[16:])


_op = define_op("add_drawn_norm", _reference, _allocate, _launch, _check_values)
_backward_op = define_op("add_drawn_norm_backward", _backward_reference, _backward_allocate, _backward_launch)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Five) -> None:
    """Keep what backward reads: the rows before they are normalised and their statistics; the branch, for the scale."""
    x, branch, scale, weight, bias, _, _, factor, ran, runs, _ = inputs
    total, rows, _, mean, rstd = output
    ctx.set_materialize_grads(False)  # a gradient that does not exist is neither made nor read
    ctx.mark_non_differentiable(rows, mean, rstd)
    ctx.factor, ctx.centered, ctx.samples = factor, bias is not None, (len(x), len(branch), branch.dtype)
    kept = branch if ctx.needs_input_grad[2] else None
    ctx.save_for_backward(total if runs is None else rows, mean, rstd, weight, kept, scale, ran, runs)


def _backward(
    ctx: Any, grad_total: Tensor | None, _: None, grad: Tensor | None, *of_stats: None
) -> tuple[Tensor | None, ...]:
    rows, mean, rstd, weight, branch, scale, ran, runs = ctx.saved_tensors  # read once: activation checkpointing
    if grad is None:  # nobody needs the normalised rows, which no model does
        grad = torch.zeros_like(rows)
    parameters = any(ctx.needs_input_grad[3:5])
    of_x, of_branch, sums = _backward_op(
        *(grad_total, grad, rows, mean, rstd, weight, branch, scale, ctx.factor, ran, runs),
        *(ctx.centered, parameters, *ctx.samples),
    )
    of_scale = None if branch is None or scale is None else sums[-1].to(scale.dtype)
    of_weight, of_bias = (sums[i].to(weight.dtype) if ctx.needs_input_grad[3 + i] else None for i in range(2))
    return of_x, of_branch, of_scale, of_weight, of_bias, None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)


def add_drawn_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    dtype: torch.dtype | None = None,
    *,
    scale: Tensor | None = None,
    factor: float = 1.0,
    ran: Tensor | None = None,
    runs: Tensor | None = None,
    count: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stochastic depth between two branches: add the one that ran on some samples, normalise those of the next.

        sum[s] = x[s] + factor · scale · branch[ran[s]]    where ran[s] < B', else x[s], rounded to the dtype of x
        rows[runs[s]] = sum[s],    y[runs[s]] = norm(sum[s])    where runs[s] < count

    The norm is `layer_norm`, or `rms_norm` without a bias. One pass over the rows does the scaling, the addition, both
    choices of samples and the norm, and another one their gradients, in float32. Backward keeps rows, or sum where
    there are no `runs`, and one or two float32 numbers of each of their rows; with a scale that needs a gradient also
    the branch as it came. Differentiable in x, branch, weight, bias and scale; rows have no gradient.

    On rows the norm alone gives y, bitwise unless `dtype` is wider than that of x: backward can make y again.

    Args:
        x: (B, N, D) floating, the residual stream, of any strides.
        branch: (B', N, D) floating, B' ≤ B: what is added to B' of the samples, of any strides.
        weight: (D,) floating, in the dtype of x or, under autocast, in float32.
        bias: (D,) of the dtype of `weight`: LayerNorm. None: RMSNorm.
        eps: number added to the variance or to the mean square, at least 0.
        dtype: of y; None is the dtype of x. Autocast has no say in it.
        scale: (D,) floating, LayerScale's gamma; None is 1.
        factor: one over the probability that a branch is kept; its size is at most 2²⁰.
        ran: (B,) int64, every number in [0, B) once: sample s of x has sample ran[s] of the branch, and none where that
            is B' or more. None: sample s has sample s, and B' must be B. On a GPU the values are looked at within
            `check_indices()` only.
        runs: (B,) int64 likewise: sample s becomes sample runs[s] of y, and none where that is `count` or more. None:
            all samples in their order.
        count: B", the samples of y, at most B; only with `runs`.

    Returns:
        sum (B, N, D) and rows (B", N, D) of the dtype of x, and y (B", N, D) of `dtype`, all contiguous. Without `runs`
        rows are the sum itself.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        Deep networks with stochastic depth (arXiv 1603.09382), equation 2; `Block.forward` of VideoMAE V2,
        models/modeling_finetune.py (OpenGVLab/VideoMAEv2), which computes every branch and multiplies by 0 or `factor`.
    """
    check_tensor(x, "x", FLOATING, ("B", "N", "D"))
    if bias is None:
        eps, dtype = check_norm(x, weight, eps, dtype)
    else:
        eps, dtype = check_layer_norm(x, weight, bias, eps, dtype)
    batch = x.shape[0]
    check_tensor(branch, "branch", FLOATING, (batch if ran is None else "B'", *x.shape[1:]), x)
    if len(branch) > batch:
        raise ValueError(f"branch must have at most the {batch} samples of x, got {len(branch)}")
    if scale is not None:
        check_tensor(scale, "scale", FLOATING, tuple(x.shape[-1:]), x)
    for place, name in ((ran, "ran"), (runs, "runs")):
        if place is not None:
            check_tensor(place, name, INT64, (batch,), x)
    if (count is None) != (runs is None):
        raise ValueError(f"count must come with runs, got count {count} and {'no ' if runs is None else ''}runs")
    count = batch if count is None else check_count(count, "count", 0, batch)
    factor = check_number(factor, "factor")
    if abs(factor) > MAX_FACTOR:
        raise ValueError(
            f"factor must be at most {MAX_FACTOR}, one over the probability to keep a branch, got {factor}"
        )
    total, rows, y, _, _ = _op(x, branch, scale, weight, bias, eps, dtype, factor, ran, runs, count)
    return total, total if runs is None else rows, y
