"""Kernels and launchers of `add_drawn_norm`, and of its gradients: one for LayerNorm and RMSNorm.

They are apart from those of norms of whole batches, which stay free of the numbers of drawn samples. Tile, order of
work and arithmetic of the forward pass are the same, so that the norm alone makes y again bit by bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, summing_programs, whole_row_tile
from .tile import as_rows, load_rows


@triton.jit
def drawn_rows(place, row, in_rows, sample_rows, samples, PLACED: tl.constexpr):
    """Of rows, numbered over all samples, their numbers among those of the drawn samples, and which have one."""
    if PLACED:
        drawn = tl.load(place + row // sample_rows, mask=in_rows, other=-1)
        has = in_rows & (drawn >= 0) & (drawn < samples)
        number = drawn.to(tl.int32) * sample_rows + row % sample_rows
    else:
        has = in_rows
        number = row
    return number, has


@triton.jit(do_not_specialize=["num_rows", "sample_rows", "branch_samples", "samples"])
def _add_drawn_norm_kernel(
    x,  # (B, N, D), columns contiguous
    branch,  # (B', N, D), columns contiguous
    scale,  # (D,)
    weight,  # (D,)
    bias,  # (D,)
    ran,  # (B,) int64: sample of `branch`
    runs,  # (B,) int64: sample of `rows`, of `y` and of their statistics
    total,  # (B, N, D) contiguous: x + factor · scale · branch
    rows,  # (B", N, D) contiguous: of total
    y,  # (B", N, D) contiguous
    mean,  # (B", N)
    rstd,  # (B", N)
    num_rows,  # B · N
    sample_rows,  # N
    branch_samples,  # B'
    samples,  # B"
    x_stride_b,
    x_stride_n,
    branch_stride_b,
    branch_stride_n,
    factor,
    eps,
    WIDTH: tl.constexpr,  # D
    HAS_SCALE: tl.constexpr,
    HAS_RAN: tl.constexpr,
    HAS_RUNS: tl.constexpr,
    CENTERED: tl.constexpr,  # LayerNorm
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,  # at least D: statistics need whole rows
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n)
    number, has = drawn_rows(ran, row, in_rows, sample_rows, branch_samples, HAS_RAN)
    has_cols = has[:, None] & in_cols[None, :]
    added = load_rows(branch, number, col, has_cols, sample_rows, branch_stride_b, branch_stride_n)
    multiplier = tl.full((BLOCK_COLS,), 1.0, tl.float32) * factor
    if HAS_SCALE:
        multiplier *= tl.load(scale + col, mask=in_cols, other=0.0).to(tl.float32)
    value = tl.fma(added, tl.broadcast_to(multiplier[None, :], added.shape), value)
    rounded = value.to(total.dtype.element_ty)
    tl.store(total + row[:, None].to(tl.int64) * WIDTH + col[None, :], rounded, mask=inside)
    value = rounded.to(tl.float32)  # statistics of what backward will read
    number, has = drawn_rows(runs, row, in_rows, sample_rows, samples, HAS_RUNS)
    place = number[:, None].to(tl.int64) * WIDTH + col[None, :]
    has_cols = has[:, None] & in_cols[None, :]
    if HAS_RUNS:
        tl.store(rows + place, rounded, mask=has_cols)
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    if CENTERED:
        average = tl.sum(value, axis=1) / WIDTH
        centered = tl.where(in_cols[None, :], value - average[:, None], 0.0)
        inverse = tl.rsqrt(tl.sum(centered * centered, axis=1) / WIDTH + eps)
        shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
        normalised = centered * inverse[:, None] * gain[None, :] + shift[None, :]
        tl.store(mean + number, average, mask=has)
    else:
        inverse = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)
        normalised = value * inverse[:, None] * gain[None, :]
    tl.store(rstd + number, inverse, mask=has)
    tl.store(y + place, normalised.to(y.dtype.element_ty), mask=has_cols)


def add_drawn_norm(
    x: Tensor,
    branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    factor: float,
    ran: Tensor | None,
    runs: Tensor | None,
    total: Tensor,
    rows: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    """Launch for `add_drawn_norm`; without `runs` nothing is written to `rows`, without a bias nothing to `mean`."""
    x, *x_strides = as_rows(x)
    added, *branch_strides = as_rows(branch)
    weight = weight.contiguous()
    of_branch = weight if scale is None else scale.contiguous()
    shift = weight if bias is None else bias.contiguous()
    reject_float64(x=x, weight=weight, y=y, branch=added, scale=of_branch)
    tile = whole_row_tile("layer_norm" if bias is not None else "rms_norm", x)
    num_rows = x.shape[0] * x.shape[1]
    _add_drawn_norm_kernel[(cdiv(num_rows, tile["BLOCK_ROWS"]),)](
        x,
        added,
        of_branch,
        weight,
        shift,
        rstd if ran is None else ran.contiguous(),
        rstd if runs is None else runs.contiguous(),
        total,
        rows,
        y,
        mean,
        rstd,
        num_rows,
        x.shape[1],
        added.shape[0],
        y.shape[0],
        *x_strides,
        *branch_strides,
        factor,
        eps,
        WIDTH=x.shape[2],
        HAS_SCALE=scale is not None,
        HAS_RAN=ran is not None,
        HAS_RUNS=runs is not None,
        CENTERED=bias is not None,
        **tile,
    )


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
