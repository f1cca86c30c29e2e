"""Tile shapes in one place: how many rows and columns one program handles.

Predicted, not measured: about 4,096 elements a program keep 128 threads busy with 128-bit accesses.

Row numbers are int32 in every kernel and offsets are int64: an index of 2³¹ rows would take 16 GiB by itself, while
clips and token tensors do pass 2³¹ elements; and a 64-bit division is a subroutine call on a GPU.
"""

import torch
import triton
from torch import Tensor

TILE_ELEMENTS = 4096
MAX_COLUMNS = 1024


def column_block(width: int) -> int:
    """Columns of a tile that covers rows of `width` elements in as few column blocks as possible."""
    return min(triton.next_power_of_2(width), MAX_COLUMNS)


def row_block(width: int) -> int:
    """Rows of a tile with `column_block(width)` columns."""
    return max(1, min(64, TILE_ELEMENTS // column_block(width)))


def reject_float64(**tensors: Tensor) -> None:
    """Kernels compute in float32: refuse float64 rather than lose its precision silently."""
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float64:
            raise TypeError(f"{name} is float64; the Triton kernels compute in float32, use the CPU for float64")
