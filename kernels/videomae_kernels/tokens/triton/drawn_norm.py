"""Kernel and launcher of `add_drawn_norm`: one for LayerNorm and RMSNorm, as that of its gradients.

It is apart from those of norms of whole batches, which stay free of the places of drawn samples. Tile, order of work
and arithmetic are theirs, so that the norm alone makes y again bit by bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, whole_row_tile
from .tile import as_rows, drawn_rows, load_rows


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
    tile = whole_row_tile("add_drawn_norm", x)
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
