"""Position tables: the published sinusoid, the same table for another grid, and a module that holds one."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int, int]


def sinusoid_table(num_tokens: int, width: int) -> Tensor:
    """The fixed position table of the published code, computed in float64.

        table[n, j] = sin(n / 10000^(2·⌊j/2⌋ / width)) for even j, cos(…) for odd j

    Args:
        num_tokens: N, rows; row n belongs to token n in (t, h, w) order.
        width: columns.

    Returns:
        (num_tokens, width) float32.

    References:
        `get_sinusoid_encoding_table`, VideoMAE V2, models/modeling_finetune.py.
    """
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def interpolate_positions(table: Tensor, from_grid: Grid, to_grid: Grid) -> Tensor:
    """A position table for another grid: bicubic over height and width in each frame, then linear over time.

    Corners are not aligned: the grids cover the same extent, and a position is that of the centre of its token. A
    dimension of equal size is left as it is, so equal grids return the table bit for bit.

    The published code means to do this, but builds the sinusoid for the new grid first, so its interpolation has no
    effect, and it fails where the number of frames is not 16.

    Args:
        table: (N, D) floating, N = T'·H'·W' of `from_grid`, in (t, h, w) order.
        from_grid: (T', H', W') tokens of the table.
        to_grid: (T', H', W') tokens of the result.

    Returns:
        (N', D), in the dtype of the table.

    Raises:
        ValueError: a grid is not three positive numbers, or the table has another number of rows than its grid.

    References:
        run_class_finetuning.py of VideoMAE V2, which resizes `pos_embed` between checkpoint and model.
    """
    for name, grid in (("from_grid", from_grid), ("to_grid", to_grid)):
        if len(grid) != 3 or min(grid) < 1:
            raise ValueError(f"{name} must be three positive numbers (T', H', W'), got {tuple(grid)}")
    if table.ndim != 2 or table.shape[0] != prod(from_grid):
        raise ValueError(f"table must be ({prod(from_grid)}, D) for from_grid {from_grid}, got {tuple(table.shape)}")
    frames, *size = from_grid
    if tuple(size) != tuple(to_grid[1:]):
        maps = table.view(frames, *size, -1).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, to_grid[1:], mode="bicubic", align_corners=False)
        table = maps.permute(0, 2, 3, 1).flatten(0, 2)
    if frames != to_grid[0]:
        rows = table.view(1, frames, -1).mT
        rows = F.interpolate(rows, to_grid[0], mode="linear", align_corners=False)
        table = rows.mT.reshape(prod(to_grid), -1)
    return table


def interpolated_sinusoid(from_grid: Grid, to_grid: Grid, width: int) -> Tensor:
    """The sinusoid of one grid, interpolated to another; see `sinusoid_table` and `interpolate_positions`.

    Args:
        from_grid: (T', H', W') tokens that the sinusoid numbers.
        to_grid: (T', H', W') tokens of the result.
        width: columns.

    Returns:
        (N', width) float32.

    Raises:
        ValueError: a grid is not three positive numbers.
    """
    return interpolate_positions(sinusoid_table(prod(from_grid), width), from_grid, to_grid)


def sincos_table(grid: Grid, width: int) -> Tensor:
    """The table that InternVideo2's learned positions start from, computed in float64.

    A position along one axis has w columns: sin(p·ω) and then cos(p·ω), with ω_i = 10000^(−i / (w/2)), i < w/2. The
    first width/4 columns are those of time, then 3·width/8 those of the column, then 3·width/8 those of the row.

    Args:
        grid: (T', H', W') tokens.
        width: columns, a multiple of 16.

    Returns:
        (N, width) float32, in (t, h, w) order.

    References:
        `get_3d_sincos_pos_embed`, OpenGVLab/InternVideo, InternVideo2/single_modality/models/pos_embed.py.
    """
    t, h, w = (torch.arange(size, dtype=torch.float64) for size in grid)
    axes = _sincos(t, width // 4)[:, None, None], _sincos(w, 3 * width // 8), _sincos(h, 3 * width // 8)[:, None]
    return torch.cat([axis.expand(*grid, -1) for axis in axes], dim=-1).flatten(0, 2).float()


def _sincos(position: Tensor, width: int) -> Tensor:
    half = torch.arange(width // 2, dtype=torch.float64)
    angle = position[:, None] * 10000 ** (-half / (width // 2))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class FixedPositions(nn.Module):
    """A module with the computed table `position` (N, width), which checkpoints leave out.

    A module built on the device "meta" fills its table when it gets memory (`to_empty`), because no checkpoint does.

    Args:
        num_tokens: N.
        width: columns of the table.
        table: computes the table; None is the sinusoid of N tokens.
    """

    position: Tensor

    def __init__(self, num_tokens: int, width: int, table: Callable[[], Tensor] | None = None) -> None:
        super().__init__()
        self._table = table or partial(sinusoid_table, num_tokens, width)
        self.register_buffer("position", self._table(), persistent=False)

    def init_positions(self) -> None:
        """Fill the table, in place, with what it was built from."""
        self.position.copy_(self._table())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FixedPositions":
        had_no_memory = self.position.is_meta
        super()._apply(fn, recurse)
        if had_no_memory and not self.position.is_meta and "position" in self._buffers:
            self.init_positions()
        return self
