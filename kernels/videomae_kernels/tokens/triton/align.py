"""Kernels and launchers of alignment_loss and of its gradient: one program has whole rows of student and teacher."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, summing_programs, whole_row_tile
from ..align import FLOOR as _FLOOR
from .tile import as_rows, load_rows, rows_per_sample

FLOOR = tl.constexpr(_FLOOR)


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _alignment_loss_kernel(
    x,  # (B, N, D), columns contiguous
    target,  # (B, N, D), columns contiguous
    weight,  # (D,)
    bias,  # (D,)
    losses,  # (B, N)
    stats,  # (4, B, N): see `_allocate` of align.py
    num_rows,  # B · N
    sample_rows,  # N
    x_stride_b,
    x_stride_n,
    target_stride_b,
    target_stride_n,
    eps,
    WIDTH: tl.constexpr,  # D
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,  # at least D: lengths need whole rows
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.arange(0, BLOCK_COLS)
    in_rows, in_cols = row < num_rows, col < WIDTH
    inside = in_rows[:, None] & in_cols[None, :]
    value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n)
    teacher = load_rows(target, row, col, inside, sample_rows, target_stride_b, target_stride_n)
    average = tl.sum(value, axis=1) / WIDTH
    centered = tl.where(in_cols[None, :], value - average[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centered * centered, axis=1) / WIDTH + eps)
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
    normed = centered * scale[:, None] * gain[None, :] + shift[None, :]
    length = tl.sqrt(tl.sum(normed * normed, axis=1))
    shrink = 1.0 / tl.maximum(length, FLOOR)
    both = shrink / tl.maximum(tl.sqrt(tl.sum(teacher * teacher, axis=1)), FLOOR)
    cosine = tl.sum(normed * teacher, axis=1) * both
    own = tl.where(length < FLOOR, 0.0, cosine * shrink * shrink)
    tl.store(losses + row, 2.0 - 2.0 * cosine, mask=in_rows)
    of_row = stats + row.to(tl.int64)
    tl.store(of_row, average, mask=in_rows)
    tl.store(of_row + num_rows, scale, mask=in_rows)
    tl.store(of_row + 2 * tl.cast(num_rows, tl.int64), both, mask=in_rows)
    tl.store(of_row + 3 * tl.cast(num_rows, tl.int64), own, mask=in_rows)


def alignment_loss(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float, losses: Tensor, stats: Tensor
) -> None:
    """Launch for `alignment_loss`."""
    reject_float64(x=x, target=target, weight=weight, bias=bias)
    rows, *x_strides = as_rows(x)
    teacher, *target_strides = as_rows(target)
    tile = whole_row_tile("alignment_loss", x)
    _alignment_loss_kernel[(cdiv(losses.numel(), tile["BLOCK_ROWS"]),)](
        rows,
        teacher,
        weight.contiguous(),
        bias.contiguous(),
        losses,
        stats,
        losses.numel(),
        rows_per_sample(x),
        *x_strides,
        *target_strides,
        eps,
        WIDTH=x.shape[-1],
        **tile,
    )


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _alignment_loss_backward_kernel(
    grad,  # (B, N): gradient of the losses
    x,  # (B, N, D), columns contiguous
    target,  # (B, N, D), columns contiguous
    stats,  # (4, B, N): see `_allocate` of align.py
    weight,  # (D,)
    bias,  # (D,)
    of_x,  # (B, N, D) contiguous
    partials,  # (programs, 2, D) float32: each program's sums for weight and bias
    num_rows,  # B · N
    sample_rows,  # N
    x_stride_b,
    x_stride_n,
    target_stride_b,
    target_stride_n,
    WIDTH: tl.constexpr,  # D
    HAS_PARAMETERS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    gain = tl.load(weight + col, mask=in_cols, other=0.0).to(tl.float32)
    shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK_COLS,), tl.float32)
    of_bias = tl.zeros((BLOCK_COLS,), tl.float32)
    # Programs take turns, so that what is read at one time lies side by side.
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, tl.num_programs(0) * BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_cols[None, :]
        value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n)
        teacher = load_rows(target, row, col, inside, sample_rows, target_stride_b, target_stride_n)
        of_row = stats + row.to(tl.int64)
        average = tl.load(of_row, mask=in_rows, other=0.0)
        scale = tl.load(of_row + num_rows, mask=in_rows, other=0.0)
        both = tl.load(of_row + 2 * tl.cast(num_rows, tl.int64), mask=in_rows, other=0.0)
        own = tl.load(of_row + 3 * tl.cast(num_rows, tl.int64), mask=in_rows, other=0.0)
        factor = 2.0 * tl.load(grad + row, mask=in_rows, other=0.0)
        unit = tl.where(inside, (value - average[:, None]) * scale[:, None], 0.0)
        normed = unit * gain[None, :] + shift[None, :]
        slope = normed * (own * factor)[:, None] - teacher * (both * factor)[:, None]  # of normed; 0 outside
        if HAS_PARAMETERS:
            of_weight += tl.sum(slope * unit, axis=0)
            of_bias += tl.sum(slope, axis=0)
        slope *= gain[None, :]
        along = tl.sum(slope * unit, axis=1) / WIDTH
        level = tl.sum(slope, axis=1) / WIDTH
        result = (slope - level[:, None] - unit * along[:, None]) * scale[:, None]
        place = row[:, None].to(tl.int64) * WIDTH + col[None, :]
        tl.store(of_x + place, result.to(of_x.dtype.element_ty), mask=inside)
    if HAS_PARAMETERS:
        sums = partials + tl.program_id(0).to(tl.int64) * 2 * WIDTH + col
        tl.store(sums, of_weight, mask=in_cols)
        tl.store(sums + WIDTH, of_bias, mask=in_cols)


def alignment_loss_backward(
    grad: Tensor, x: Tensor, target: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, of_x: Tensor, sums: Tensor
) -> None:
    """Launch for `alignment_loss_backward`; empty `sums` are not wanted."""
    reject_float64(grad=grad, x=x, target=target, weight=weight, bias=bias)
    tile = whole_row_tile("alignment_loss_backward", x)
    programs = summing_programs("alignment_loss_backward", grad.numel(), tile)
    partials = sums.new_empty((programs, *sums.shape))
    rows, *x_strides = as_rows(x)
    teacher, *target_strides = as_rows(target)
    _alignment_loss_backward_kernel[(programs,)](
        grad,
        rows,
        teacher,
        stats,
        weight.contiguous(),
        bias.contiguous(),
        of_x,
        partials,
        grad.numel(),
        rows_per_sample(x),
        *x_strides,
        *target_strides,
        WIDTH=x.shape[-1],
        HAS_PARAMETERS=sums.numel() > 0,
        **tile,
    )
    if sums.numel():
        torch.sum(partials, dim=0, out=sums)
