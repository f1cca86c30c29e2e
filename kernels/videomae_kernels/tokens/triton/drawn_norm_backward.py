"""Kernel and launcher of the gradients of `add_drawn_norm`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import reject_float64, summing_programs, whole_row_tile
from .tile import as_rows, drawn_rows, load_rows


@triton.jit(do_not_specialize=["num_rows", "sample_rows", "branch_samples", "samples"])
def _add_drawn_norm_backward_kernel(
    grad_total,  # (B, N, D), columns contiguous: gradient of the sum from elsewhere
    grad,  # (B", N, D), columns contiguous: gradient of y
    rows,  # (B", N, D) contiguous: what was normalised
    branch,  # (B', N, D), columns contiguous: what was scaled
    mean,  # (B", N)
    rstd,  # (B", N)
    weight,  # (D,)
    scale,  # (D,)
    ran,  # (B,) int64
    runs,  # (B,) int64
    of_total,  # (B, N, D) contiguous
    of_branch,  # (B', N, D) contiguous
    partials,  # (programs, 0 to 3, D) float32: each program's sums for the weight, the bias and the scale
    num_rows,  # B · N
    sample_rows,  # N
    branch_samples,  # B'
    samples,  # B"
    grad_total_stride_b,
    grad_total_stride_n,
    grad_stride_b,
    grad_stride_n,
    branch_stride_b,
    branch_stride_n,
    factor,
    WIDTH: tl.constexpr,  # D
    HAS_GRAD_TOTAL: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_RAN: tl.constexpr,
    HAS_RUNS: tl.constexpr,
    CENTERED: tl.constexpr,
    OF_PARAMETERS: tl.constexpr,
    OF_SCALE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    multiplier = tl.full((BLOCK_COLS,), 1.0, tl.float32) * factor
    if HAS_SCALE:
        multiplier *= tl.load(scale + col, mask=in_cols, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK_COLS,), tl.float32)
    of_bias = tl.zeros((BLOCK_COLS,), tl.float32)
    of_scale = tl.zeros((BLOCK_COLS,), tl.float32)
    # Programs take turns, so that what is read at one time lies side by side.
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, tl.num_programs(0) * BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_cols[None, :]
        number, has = drawn_rows(runs, row, in_rows, sample_rows, samples, HAS_RUNS)
        has_cols = has[:, None] & in_cols[None, :]
        place = number[:, None].to(tl.int64) * WIDTH + col[None, :]
        unit = tl.load(rows + place, mask=has_cols, other=0.0).to(tl.float32)
        slope = load_rows(grad, number, col, has_cols, sample_rows, grad_stride_b, grad_stride_n)
        if HAS_GRAD_TOTAL:  # loaded before the warps of a row meet, so that it arrives meanwhile; the branch, too
            other = load_rows(grad_total, row, col, inside, sample_rows, grad_total_stride_b, grad_total_stride_n)
        in_branch, in_it = drawn_rows(ran, row, in_rows, sample_rows, branch_samples, HAS_RAN)
        branch_cols = in_it[:, None] & in_cols[None, :]
        if OF_SCALE:
            added = load_rows(branch, in_branch, col, branch_cols, sample_rows, branch_stride_b, branch_stride_n)
        inverse = tl.load(rstd + number, mask=has, other=0.0)
        if CENTERED:
            average = tl.load(mean + number, mask=has, other=0.0)
            unit = tl.where(has_cols, unit - average[:, None], 0.0)
        unit *= inverse[:, None]
        if OF_PARAMETERS:
            of_weight += tl.sum(slope * unit, axis=0)
            if CENTERED:
                of_bias += tl.sum(slope, axis=0)
        slope *= gain[None, :]
        along = tl.sum(slope * unit, axis=1) / WIDTH
        if CENTERED:
            level = tl.sum(slope, axis=1) / WIDTH
            slope -= level[:, None]
        result = (slope - unit * along[:, None]) * inverse[:, None]
        if HAS_GRAD_TOTAL:
            result += other
        whole = row[:, None].to(tl.int64) * WIDTH + col[None, :]
        tl.store(of_total + whole, result.to(of_total.dtype.element_ty), mask=inside)
        if OF_SCALE:
            of_scale += tl.sum(result * added, axis=0)
        result *= multiplier[None, :]
        branch_place = in_branch[:, None].to(tl.int64) * WIDTH + col[None, :]
        tl.store(of_branch + branch_place, result.to(of_branch.dtype.element_ty), mask=branch_cols)
    count: tl.constexpr = OF_PARAMETERS * (1 + CENTERED)
    sums = partials + tl.program_id(0).to(tl.int64) * (count + OF_SCALE) * WIDTH + col
    if OF_PARAMETERS:
        tl.store(sums, of_weight, mask=in_cols)
        if CENTERED:
            tl.store(sums + WIDTH, of_bias, mask=in_cols)
    if OF_SCALE:
        tl.store(sums + count * WIDTH, of_scale * factor, mask=in_cols)


def add_drawn_norm_backward(
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
    of_total: Tensor,
    of_branch: Tensor,
    sums: Tensor,
) -> None:
    """Launch for `add_drawn_norm_backward`; empty `sums` are not wanted."""
    reject_float64(grad=grad, rows=rows, weight=weight)
    tile = whole_row_tile("add_drawn_norm_backward", rows)
    samples, sample_rows, width = of_total.shape
    programs = summing_programs("add_drawn_norm_backward", samples * sample_rows, tile)
    partials = sums.new_empty((programs, *sums.shape))
    if programs:
        slope, *grad_strides = as_rows(grad)
        other, *other_strides = (slope, 0, 0) if grad_total is None else as_rows(grad_total)
        added, *branch_strides = (slope, 0, 0) if branch is None else as_rows(branch)
        weight = weight.contiguous()
        _add_drawn_norm_backward_kernel[(programs,)](
            other,
            slope,
            rows.contiguous(),
            added,
            mean,
            rstd,
            weight,
            weight if scale is None else scale.contiguous(),
            rstd if ran is None else ran.contiguous(),
            rstd if runs is None else runs.contiguous(),
            of_total,
            of_branch,
            partials,
            samples * sample_rows,
            sample_rows,
            of_branch.shape[0],
            rows.shape[0],
            *other_strides,
            *grad_strides,
            *branch_strides,
            factor,
            WIDTH=width,
            HAS_GRAD_TOTAL=grad_total is not None,
            HAS_SCALE=scale is not None,
            HAS_RAN=ran is not None,
            HAS_RUNS=runs is not None,
            CENTERED=centered,
            OF_PARAMETERS=parameters,
            OF_SCALE=branch is not None,
            **tile,
        )
    if sums.numel():
        torch.sum(partials, dim=0, out=sums)
