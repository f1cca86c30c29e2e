"""Kernels and launchers of GELU with the bias before it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import cdiv, reject_float64, row_tile, summing_programs, summing_tile
from .tile import as_rows, load_rows, rows_per_sample

HALF_ROOT = tl.constexpr(0.5**0.5)
DENSITY = tl.constexpr((2 * 3.141592653589793) ** -0.5)  # of the normal distribution at 0


@triton.jit
def _normal_distribution(value):
    """Φ(value), with an error below 10⁻⁷, and exp(−value²/2).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. CUDA's erf branches for each value, which keeps
    the values of a thread from overlapping; this does not, and shares its exponential with the density.
    """
    bell = tl.exp(-0.5 * value * value)
    t = 1.0 / (1.0 + (0.3275911 * HALF_ROOT) * tl.abs(value))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * bell
    return tl.where(value < 0.0, tail, 1.0 - tail), bell


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _bias_gelu_kernel(
    x,  # (B, N, D), columns contiguous
    bias,  # (D,)
    out,  # (B, N, D) contiguous
    num_rows,  # B · N
    sample_rows,  # N
    stride_b,
    stride_n,
    WIDTH: tl.constexpr,  # D
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # int32: see _tiling
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    inside = (row < num_rows)[:, None] & in_cols[None, :]
    shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
    value = load_rows(x, row, col, inside, sample_rows, stride_b, stride_n) + shift[None, :]
    below, _ = _normal_distribution(value)
    result = value * below
    tl.store(out + row[:, None].to(tl.int64) * WIDTH + col[None, :], result.to(out.dtype.element_ty), mask=inside)


def bias_gelu(x: Tensor, bias: Tensor, out: Tensor) -> None:
    """Launch for `bias_gelu`."""
    reject_float64(x=x, bias=bias)
    rows, *strides = as_rows(x)
    width = x.shape[-1]
    tile = row_tile("bias_gelu", width)
    num_rows = x.numel() // width
    _bias_gelu_kernel[(cdiv(num_rows, tile["BLOCK_ROWS"]), cdiv(width, tile["BLOCK_COLS"]))](
        rows, bias.contiguous(), out, num_rows, rows_per_sample(x), *strides, WIDTH=width, **tile
    )


@triton.jit(do_not_specialize=["num_rows", "sample_rows"])
def _bias_gelu_backward_kernel(
    grad,  # (B, N, D), columns contiguous
    x,  # (B, N, D), columns contiguous
    bias,  # (D,)
    of_x,  # (B, N, D) contiguous
    partials,  # (programs, D) float32: each program's sums for bias
    num_rows,  # B · N
    sample_rows,  # N
    grad_stride_b,
    grad_stride_n,
    x_stride_b,
    x_stride_n,
    WIDTH: tl.constexpr,  # D
    HAS_BIAS: tl.constexpr,  # whether its gradient is wanted
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.program_id(1) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    in_cols = col < WIDTH
    shift = tl.load(bias + col, mask=in_cols, other=0.0).to(tl.float32)
    of_bias = tl.zeros((BLOCK_COLS,), tl.float32)
    # Programs take turns, so that what is read at one time lies side by side.
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, tl.num_programs(0) * BLOCK_ROWS):
        row = first + tl.arange(0, BLOCK_ROWS)
        inside = (row < num_rows)[:, None] & in_cols[None, :]
        value = load_rows(x, row, col, inside, sample_rows, x_stride_b, x_stride_n) + shift[None, :]
        slope = load_rows(grad, row, col, inside, sample_rows, grad_stride_b, grad_stride_n)  # 0 outside
        below, bell = _normal_distribution(value)
        result = slope * (below + value * DENSITY * bell)
        tl.store(of_x + row[:, None].to(tl.int64) * WIDTH + col[None, :], result.to(of_x.dtype.element_ty), mask=inside)
        if HAS_BIAS:
            of_bias += tl.sum(result, axis=0)
    if HAS_BIAS:
        tl.store(partials + tl.program_id(0).to(tl.int64) * WIDTH + col, of_bias, mask=in_cols)


def bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor, of_x: Tensor, of_bias: Tensor) -> None:
    """Launch for `bias_gelu_backward`; an empty `of_bias` is not wanted."""
    reject_float64(grad=grad, x=x, bias=bias)
    width = x.shape[-1]
    tile = summing_tile("bias_gelu_backward", x)
    num_rows, columns = x.numel() // width, cdiv(width, tile["BLOCK_COLS"])
    programs = summing_programs("bias_gelu_backward", num_rows, tile, columns)
    partials = of_bias.new_empty((programs, *of_bias.shape))
    if programs:
        slope, *grad_strides = as_rows(grad)
        rows, *x_strides = as_rows(x)
        _bias_gelu_backward_kernel[(programs, columns)](
            slope,
            rows,
            bias.contiguous(),
            of_x,
            partials,
            num_rows,
            rows_per_sample(x),
            *grad_strides,
            *x_strides,
            WIDTH=width,
            HAS_BIAS=of_bias.numel() > 0,
            **tile,
        )
    if of_bias.numel():
        torch.sum(partials, dim=0, out=of_bias)
