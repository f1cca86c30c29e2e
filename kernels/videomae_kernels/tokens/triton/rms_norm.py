"""Kernels and launchers of RMSNorm, with the addition of a scaled branch before it, and of both gradients.

They are apart from those of LayerNorm, with which they share the tile and the order of work: a mean and a bias here, a
scale and its gradient there would leave few lines that no flag guards.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, summing_programs, whole_row_tile
from .tile import as_rows, load_rows, rows_per_sample


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _rms_norm_kernel(
    x,  # (B, N, D), columns contiguous
    branch,  # (B, N, D), columns contiguous
    scale,  # (D,)
    weight,  # (D,)
    total,  # (B, N, D) contiguous: x + scale · branch
    y,  # (B, N, D) contiguous
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
    HAS_SCALE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,  # at least D: statistics need whole rows
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    place = row[:, None].to(tl.int64) * WIDTH + col[None, :]
    if HAS_SCALE:
        factor = tl.load(scale + col, mask=in_cols, other=0.0).to(tl.float32)
    value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n)
    if HAS_BRANCH:
        added = load_rows(branch, row, col, inside, sample_rows, branch_stride_b, branch_stride_n)
        if HAS_SCALE:
            value = tl.fma(added, tl.broadcast_to(factor[None, :], added.shape), value)
        else:
            value += added
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=inside)
        value = rounded.to(tl.float32)  # statistics of what backward will read
    inverse = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)
    tl.store(rstd + row, inverse, mask=in_rows)
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    normalised = value * inverse[:, None] * gain[None, :]
    tl.store(y + place, normalised.to(y.dtype.element_ty), mask=inside)


def rms_norm(
    x: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    weight: Tensor,
    eps: float,
    total: Tensor | None,
    y: Tensor,
    rstd: Tensor,
) -> None:
    """Launch for `rms_norm`, and for `add_rms_norm` if there is a branch and so a sum."""
    rows, *x_strides = as_rows(x)
    added, *branch_strides = (rows, 0, 0) if branch is None else as_rows(branch)
    weight = weight.contiguous()
    factor = weight if scale is None else scale.contiguous()
    reject_float64(x=rows, weight=weight, y=y, branch=added, scale=factor)
    tile = whole_row_tile("rms_norm", x)
    _rms_norm_kernel[(cdiv(rstd.numel(), tile["BLOCK_ROWS"]),)](
        rows,
        added,
        factor,
        weight,
        y if total is None else total,
        y,
        rstd,
        rstd.numel(),
        rows_per_sample(x),
        *x_strides,
        *branch_strides,
        eps,
        WIDTH=x.shape[-1],
        HAS_BRANCH=branch is not None,
        HAS_SCALE=scale is not None,
        **tile,
    )


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _rms_norm_backward_kernel(
    grad_total,  # (B, N, D), columns contiguous: gradient of the sum from elsewhere
    grad,  # (B, N, D), columns contiguous: gradient of y
    total,  # (B, N, D), columns contiguous: what was normalised
    branch,  # (B, N, D), columns contiguous: what was scaled
    rstd,  # (B, N)
    weight,  # (D,)
    scale,  # (D,)
    of_total,  # (B, N, D) contiguous
    of_branch,  # the same scaled, or in another dtype
    partials,  # (programs, 0 to 2, D) float32: each program's sums for the weight, and for the scale
    num_rows,  # B · N
    sample_rows,  # N
    grad_total_stride_b,
    grad_total_stride_n,
    grad_stride_b,
    grad_stride_n,
    total_stride_b,
    total_stride_n,
    branch_stride_b,
    branch_stride_n,
    WIDTH: tl.constexpr,  # D
    HAS_GRAD_TOTAL: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    OF_BRANCH: tl.constexpr,
    OF_WEIGHT: tl.constexpr,
    OF_SCALE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    if HAS_SCALE:
        factor = tl.load(scale + col, mask=in_cols, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK_COLS,), tl.float32)
    of_scale = tl.zeros((BLOCK_COLS,), tl.float32)
    # Programs take turns, so that what is read at one time lies side by side.
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, tl.num_programs(0) * BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_cols[None, :]
        place = row[:, None].to(tl.int64) * WIDTH + col[None, :]
        value = load_rows(total, row, col, inside, sample_rows, total_stride_b, total_stride_n)
        slope = load_rows(grad, row, col, inside, sample_rows, grad_stride_b, grad_stride_n)
        if HAS_GRAD_TOTAL:  # loaded before the warps of a row meet, so that it arrives meanwhile; the branch, too
            other = load_rows(grad_total, row, col, inside, sample_rows, grad_total_stride_b, grad_total_stride_n)
        if OF_SCALE:
            added = load_rows(branch, row, col, inside, sample_rows, branch_stride_b, branch_stride_n)
        inverse = tl.load(rstd + row, mask=in_rows, other=0.0)
        unit = value * inverse[:, None]
        if OF_WEIGHT:
            of_weight += tl.sum(slope * unit, axis=0)
        slope *= gain[None, :]
        along = tl.sum(slope * unit, axis=1) / WIDTH
        result = (slope - unit * along[:, None]) * inverse[:, None]
        if HAS_GRAD_TOTAL:
            result += other
        tl.store(of_total + place, result.to(of_total.dtype.element_ty), mask=inside)
        if OF_SCALE:
            of_scale += tl.sum(result * added, axis=0)
        if OF_BRANCH:
            if HAS_SCALE:
                result *= factor[None, :]
            tl.store(of_branch + place, result.to(of_branch.dtype.element_ty), mask=inside)
    sums = partials + tl.program_id(0).to(tl.int64) * (OF_WEIGHT + OF_SCALE) * WIDTH + col
    if OF_WEIGHT:
        tl.store(sums, of_weight, mask=in_cols)
    if OF_SCALE:
        tl.store(sums + OF_WEIGHT * WIDTH, of_scale, mask=in_cols)


def rms_norm_backward(
    grad_total: Tensor | None,
    grad: Tensor,
    total: Tensor,
    rstd: Tensor,
    weight: Tensor,
    branch: Tensor | None,
    scale: Tensor | None,
    has_weight: bool,
    of_total: Tensor,
    of_branch: Tensor,
    sums: Tensor,
) -> None:
    """Launch for `rms_norm_backward`; an empty `of_branch` or `sums` is not wanted."""
    reject_float64(grad=grad, total=total, weight=weight)
    tile = whole_row_tile("rms_norm_backward", total)
    programs = summing_programs("rms_norm_backward", rstd.numel(), tile)
    partials = sums.new_empty((programs, *sums.shape))
    if programs:
        slope, *grad_strides = as_rows(grad)
        rows, *total_strides = as_rows(total)
        other, *other_strides = (slope, 0, 0) if grad_total is None else as_rows(grad_total)
        added, *branch_strides = (rows, 0, 0) if branch is None else as_rows(branch)
        weight = weight.contiguous()
        _rms_norm_backward_kernel[(programs,)](
            other,
            slope,
            rows,
            added,
            rstd,
            weight,
            weight if scale is None else scale.contiguous(),
            of_total,
            of_branch,
            partials,
            rstd.numel(),
            rows_per_sample(total),
            *other_strides,
            *grad_strides,
            *total_strides,
            *branch_strides,
            WIDTH=total.shape[-1],
            HAS_GRAD_TOTAL=grad_total is not None,
            HAS_SCALE=scale is not None,
            OF_BRANCH=of_branch.numel() > 0,
            OF_WEIGHT=has_weight,
            OF_SCALE=branch is not None,
            **tile,
        )
    if sums.numel():
        torch.sum(partials, dim=0, out=sums)
