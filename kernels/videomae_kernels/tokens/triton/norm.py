"""Kernels and launchers of LayerNorm, with the residual addition before it, and of both gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, summing_programs, whole_row_tile
from .tile import as_rows, load_rows, rows_per_sample


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _layer_norm_kernel(
    x,  # (B, N, D), columns contiguous
    branch,  # (B, N, D), columns contiguous
    weight,  # (D,)
    bias,  # (D,)
    total,  # (B, N, D) contiguous: x + branch
    y,  # (B, N, D) contiguous
    mean,  # (B, N)
    rstd,  # (B, N)
    num_rows,  # B · N
    sample_rows,  # N
    x_stride_b,
    x_stride_n,
    branch_stride_b,
    branch_stride_n,
    eps,
    WIDTH: tl.constexpr,  # D
    HAS_BRANCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,  # at least D: statistics need whole rows
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    place = row[:, None].to(tl.int64) * WIDTH + col[None, :]
    value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n)
    if HAS_BRANCH:
        value += load_rows(branch, row, col, inside, sample_rows, branch_stride_b, branch_stride_n)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        value = rounded.to(tl.float32)  # statistics of what backward will read
    average = tl.sum(value, axis=1) / WIDTH
    centered = tl.where(in_cols[None, :], value - average[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centered * centered, axis=1) / WIDTH + eps)
    tl.store(mean + row, average, mask=in_rows)
    tl.store(rstd + row, scale, mask=in_rows)
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
    normalised = centered * scale[:, None] * gain[None, :] + shift[None, :]
    tl.store(y + place, normalised.to(y.dtype.element_ty), mask=inside)


def layer_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    total: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    """Launch for `layer_norm`, and for `add_layer_norm` if there is a branch and so a sum."""
    reject_float64(x=x, weight=weight, bias=bias, y=y)
    rows, *x_strides = as_rows(x)
    added, *branch_strides = (rows, 0, 0) if branch is None else as_rows(branch)
    reject_float64(branch=added)
    tile = whole_row_tile("layer_norm", x)
    _layer_norm_kernel[(cdiv(mean.numel(), tile["BLOCK_ROWS"]),)](
        rows,
        added,
        weight.contiguous(),
        bias.contiguous(),
        y if total is None else total,
        y,
        mean,
        rstd,
        mean.numel(),
        rows_per_sample(x),
        *x_strides,
        *branch_strides,
        eps,
        WIDTH=x.shape[-1],
        HAS_BRANCH=branch is not None,
        **tile,
    )


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _layer_norm_backward_kernel(
    grad_total,  # (B, N, D), columns contiguous: gradient of the sum from elsewhere
    grad,  # (B, N, D), columns contiguous: gradient of y
    total,  # (B, N, D) contiguous: what was normalised
    mean,  # (B, N)
    rstd,  # (B, N)
    weight,  # (D,)
    of_total,  # (B, N, D) contiguous
    of_branch,  # the same in another dtype
    partials,  # (programs, 2, D) float32: each program's sums for weight and bias
    num_rows,  # B · N
    sample_rows,  # N
    grad_total_stride_b,
    grad_total_stride_n,
    grad_stride_b,
    grad_stride_n,
    WIDTH: tl.constexpr,  # D
    HAS_GRAD_TOTAL: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_PARAMETERS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK_COLS,), tl.float32)
    of_bias = tl.zeros((BLOCK_COLS,), tl.float32)
    # Programs take turns, so that what is read at one time lies side by side.
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, tl.num_programs(0) * BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_cols[None, :]
        place = row[:, None].to(tl.int64) * WIDTH + col[None, :]
        value = tl.load(total + place, mask=inside, other=0.0).to(tl.float32)
        slope = load_rows(grad, row, col, inside, sample_rows, grad_stride_b, grad_stride_n)
        if HAS_GRAD_TOTAL:  # loaded before the warps of a row meet, so that it arrives meanwhile
            other = load_rows(grad_total, row, col, inside, sample_rows, grad_total_stride_b, grad_total_stride_n)
        average = tl.load(mean + row, mask=in_rows, other=0.0)
        scale = tl.load(rstd + row, mask=in_rows, other=0.0)
        unit = tl.where(inside, (value - average[:, None]) * scale[:, None], 0.0)
        if HAS_PARAMETERS:
            of_weight += tl.sum(slope * unit, axis=0)
            of_bias += tl.sum(slope, axis=0)
        slope *= gain[None, :]
        along = tl.sum(slope * unit, axis=1) / WIDTH
        level = tl.sum(slope, axis=1) / WIDTH
        result = (slope - level[:, None] - unit * along[:, None]) * scale[:, None]
        if HAS_GRAD_TOTAL:
            result += other
        tl.store(of_total + place, result.to(of_total.dtype.element_ty), mask=inside)
        if HAS_BRANCH:
            tl.store(of_branch + place, result.to(of_branch.dtype.element_ty), mask=inside)
    if HAS_PARAMETERS:
        sums = partials + tl.program_id(0).to(tl.int64) * 2 * WIDTH + col
        tl.store(sums, of_weight, mask=in_cols)
        tl.store(sums + WIDTH, of_bias, mask=in_cols)


def layer_norm_backward(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    of_total: Tensor,
    of_branch: Tensor,
    sums: Tensor,
) -> None:
    """Launch for `layer_norm_backward`; an empty `of_branch` or `sums` is not wanted."""
    reject_float64(grad=grad, total=total, weight=weight)
    tile = whole_row_tile("layer_norm_backward", total)
    programs = summing_programs("layer_norm_backward", mean.numel(), tile)
    partials = sums.new_empty((programs, *sums.shape))
    if programs:
        slope, *grad_strides = as_rows(grad)
        other, *other_strides = (slope, 0, 0) if grad_total is None else as_rows(grad_total)
        _layer_norm_backward_kernel[(programs,)](
            other,
            slope,
            total.contiguous(),
            mean,
            rstd,
            weight.contiguous(),
            of_total,
            of_branch,
            partials,
            mean.numel(),
            rows_per_sample(total),
            *other_strides,
            *grad_strides,
            WIDTH=total.shape[-1],
            HAS_GRAD_TOTAL=grad_total is not None,
            HAS_BRANCH=of_branch.numel() > 0,
            HAS_PARAMETERS=sums.numel() > 0,
            **tile,
        )
    if sums.numel():
        torch.sum(partials, dim=0, out=sums)
