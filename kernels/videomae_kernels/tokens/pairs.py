"""Pairs of rows of x and y, tile by tile in plain torch: their products, their logits, and which are positives."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE = (256, 2048)  # rows and columns whose products there are at a time: 2 MiB in float32, which caches hold
ROWS = 256  # at least, whose products the kernels have at a time


def tiles(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of x and rows of y that meet at a time."""
    for row in range(0, x.shape[0], TILE[0]):
        for column in range(0, y.shape[0], TILE[1]):
            yield slice(row, min(row + TILE[0], x.shape[0])), slice(column, min(column + TILE[1], y.shape[0]))


def products(x: Tensor, y: Tensor, i: slice, j: slice, dtype: torch.dtype) -> Tensor:
    """Of rows i of x with rows j of y. Autocast has no say in what writes into a given tensor."""
    out = x.new_empty((i.stop - i.start, j.stop - j.start), dtype=dtype)
    return torch.mm(x[i].to(dtype), y[j].to(dtype).T, out=out)


def logits(products: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """What softmaxes and sigmoids take, in the dtype of the products."""
    scaled = products * scale.to(products.dtype)
    return scaled if bias is None else scaled.add_(bias)


def positive(ids: Tensor | None, i: slice, j: slice, first: int, like: Tensor) -> Tensor:
    """Which of the pairs of a tile are positives."""
    row = torch.arange(first + i.start, first + i.stop, device=like.device)
    if ids is None:
        return row[:, None] == torch.arange(j.start, j.stop, device=like.device)
    return (ids[:, row, None] == ids[:, None, j]).any(0)


def share(weight: Tensor | None, i: slice, j: slice, first: int) -> Tensor | float:
    """What a positive counts: half of one over all positives of its row, and half of one over those of its column."""
    if weight is None:
        return 1.0
    return (weight[first + i.start : first + i.stop, None] + weight[j]) / 2


def counts(ids: Tensor) -> Tensor:
    """(m,) how many pairs are positives of each, itself among them, by sorting and without a host sync."""
    of_each = torch.stack([_equal(row) for row in ids]).sum(0)
    if len(ids) == 1:
        return of_each
    first, second = (torch.searchsorted(row.sort().values, row) for row in ids)
    return of_each - _equal(first * ids.shape[1] + second)  # those that both relate were counted twice


def _equal(ids: Tensor) -> Tensor:
    """(m,) how many of the ids equal each."""
    ordered = ids.sort().values
    return torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)


def tile_rows(x: Tensor) -> int:
    """Rows of x (n, D) whose products with all rows of y the kernels have at a time: as large as y in float32."""
    return min(x.shape[0], max(ROWS, x.shape[1]))


def workspace(x: Tensor, y: Tensor, *others: Any) -> int:
    """Products of some rows, and float32 copies. Partial sums, below a hundredth of these, are left out."""
    rows = tile_rows(x)
    elements = rows * y.shape[0]
    elements += 0 if x.dtype == torch.float32 and x.is_contiguous() else rows * x.shape[1]
    elements += 0 if y.dtype == torch.float32 else y.numel()
    return 4 * elements


def backward_workspace(grad: Tensor, grad_columns: Tensor, x: Tensor, y: Tensor, *others: Any) -> int:
    """Besides, the gradient of some rows of x, and that of y in float32."""
    wants_x, wants_y = others[-2:]
    return workspace(x, y) + 4 * (wants_x * tile_rows(x) * x.shape[1] + wants_y * y.numel())
