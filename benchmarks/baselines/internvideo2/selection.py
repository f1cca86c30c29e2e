"""Selection of rows by boolean masks, as published; the host waits for the number of rows."""

from torch import Tensor


def kept_rows(x: Tensor, hidden: Tensor) -> Tensor:
    """The rows of x (…, N, D) where hidden (…, N) is False, the same number for each: (…, V, D)."""
    return x[~hidden].reshape(*x.shape[:-2], -1, x.shape[-1])
