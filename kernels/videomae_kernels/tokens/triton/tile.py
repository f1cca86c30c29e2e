"""What the kernels on whole rows share: a tensor seen as rows of samples, a tile of them in float32, drawn samples."""

import triton
import triton.language as tl
from torch import Tensor


def as_rows(x: Tensor) -> tuple[Tensor, int, int]:
    """A tensor (…, N, D) that stays where it is if it can, and its strides between samples and between their N rows.

    Columns lie side by side. One sample's last rows, an expanded table or an expanded gradient are not copied.
    """
    rows = x.shape[-2] if x.ndim > 1 else 1
    x = x.reshape(-1, rows, x.shape[-1])
    x = x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()
    return x, x.stride(0), x.stride(1)


def rows_per_sample(x: Tensor) -> int:
    """N of a tensor (…, N, D)."""
    return x.shape[-2] if x.ndim > 1 else 1


@triton.jit
def load_rows(source, row, col, inside, rows_per_sample, stride_b, stride_n):
    """A float32 tile of rows, numbered over all samples, of a tensor with the strides of `as_rows`."""
    offset = (row // rows_per_sample).to(tl.int64) * stride_b + (row % rows_per_sample).to(tl.int64) * stride_n
    return tl.load(source + offset[:, None] + col[None, :], mask=inside, other=0.0).to(tl.float32)


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
