"""Rows of a sample that somebody reads: the last ones, or listed ones."""

from torch import Tensor

Rows = int | Tensor | None  # how many last rows, or which rows (B, R); None is all


def choose_rows(x: Tensor, rows: Rows) -> Tensor:
    """Take rows of each sample.

        out[b, r] = x[b, n − rows + r]   or   x[b, rows[b, r]]

    Args:
        x: (B, n, D).
        rows: number of last rows; or (B, R) int64 row numbers in [0, n), in any order, also more than once; None is
            all rows.

    Returns:
        (B, R, D), a view for a number. Differentiable in x, also where a row is listed more than once, which
        `videomae_kernels.gather_tokens` does not allow.
    """
    if rows is None:
        return x
    if isinstance(rows, int):
        return x[:, -rows:]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
