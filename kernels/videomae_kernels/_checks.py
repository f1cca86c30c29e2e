"""Argument checks shared by the ops: each raises an error that names the argument, what came and what is allowed.

Checks of shapes, dtypes and devices are always on and are no host sync. Checks of index *values* read the device, so
they run only inside `check_indices()`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_checks_values = False


@contextmanager
def check_indices() -> Iterator[None]:
    """Context in which every op checks index values: in range, and unique per sample.

        0 ≤ index[b, k] < N,   index[b, k] ≠ index[b, l] for k ≠ l

    Each check is a host sync, so use it to find a bug, not in training. Contexts may be nested.

    Returns:
        A context manager.

    Raises:
        ValueError: from an op inside the context, naming the argument and the values or the sample.
    """
    global _checks_values
    previous, _checks_values = _checks_values, True
    try:
        yield
    finally:
        _checks_values = previous


def check_grid(grid: Sequence[int]) -> tuple[int, int, int]:
    """A token grid (T', H', W') of three positive ints."""
    if len(grid) != 3 or any(int(n) < 1 for n in grid):
        raise ValueError(f"grid must be three positive token counts (T', H', W'), got {tuple(grid)}")
    return int(grid[0]), int(grid[1]), int(grid[2])


def check_ratio(ratio: float, name: str = "ratio") -> float:
    """A mask ratio in [0, 1)."""
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {ratio}")
    return float(ratio)


def check_index(index: Tensor, name: str, *, batch: int, limit: int, like: Tensor) -> Tensor:
    """`index` as contiguous (batch, K) integers below `limit`, on the device of `like`, with K > 0."""
    if index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64, got {index.dtype}")
    if index.ndim != 2 or index.shape[0] != batch:
        raise ValueError(f"{name} must have shape ({batch}, K), got {tuple(index.shape)}")
    if index.shape[1] == 0:
        raise ValueError(f"{name} is empty: it must keep at least one token per sample, got shape {tuple(index.shape)}")
    if index.shape[1] > limit:
        raise ValueError(f"{name} lists {index.shape[1]} tokens per sample, but there are only {limit}")
    check_device(index, name, like)
    if _checks_values:
        _check_index_values(index, name, limit)
    return index.contiguous()


def check_device(tensor: Tensor, name: str, like: Tensor) -> None:
    """`tensor` must be on the device of `like`."""
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} as the other arguments, got {tensor.device}")


def check_floating(tensor: Tensor, name: str) -> None:
    """`tensor` must have a floating dtype."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {tensor.dtype}")


def check_shape(tensor: Tensor, name: str, shape: Sequence[int]) -> None:
    """`tensor` must have exactly `shape`."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")


def _check_index_values(index: Tensor, name: str, limit: int) -> None:
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= limit:
        raise ValueError(f"{name} must lie in [0, {limit}), got values from {low} to {high}")
    ordered = index.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if bool(repeated.any()):
        sample = int(repeated.nonzero()[0])
        raise ValueError(f"{name} must not repeat a token within a sample, but sample {sample} does")
