"""How much one program of each kernel handles: every launcher takes its entry of `TILES` when it launches.

Predicted, not measured: rows in 128-bit accesses, about 4,096 elements for 128 threads, and one warp per token where
a token has to be summed, so that warps need not synchronise. Replace an entry to try something else.

Row numbers are int32 in every kernel and offsets are int64: an index of 2³¹ rows would take 16 GiB by itself, while
clips and token tensors do pass 2³¹ elements; and a 64-bit division is a subroutine call on a GPU.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

MAX_COLUMNS = 1024
WARP_THREADS = 64 if torch.version.hip else 32


@dataclass(frozen=True)
class Tile:
    """A program handles `elements` numbers, a power of two: rows × columns, or positions of a mask at a time."""

    elements: int
    num_warps: int


@dataclass(frozen=True)
class TokenTile:
    """A program handles one token; a thread takes runs of `access_bytes` of the token's row, or single elements (1)."""

    access_bytes: int
    num_warps: int


@dataclass(frozen=True)
class WholeRowTile:
    """A program handles whole rows; a thread takes `columns` neighbours of each of `rows` rows, or a like number."""

    rows: int
    columns: int


TILES: dict[str, Tile] = {
    "copy_rows": Tile(4096, num_warps=4),
    "assemble_decoder_tokens": Tile(4096, num_warps=4),
    "bias_gelu": Tile(4096, num_warps=4),
    "bias_gelu_backward": Tile(2048, num_warps=4),
    "select_index": Tile(2048, num_warps=4),  # holds all positions at once: up to this many, else the next
    "select_index_long": Tile(131072, num_warps=16),
    "mask_to_index": Tile(1024, num_warps=4),
    "running_cell_select": Tile(1024, num_warps=4),
}
# Where neighbours in a row are neighbours in the clip, a thread takes 16 bytes of the row. Else single elements, so
# that the loads of a warp fall into few cache lines, and Triton regroups them in shared memory for wide row accesses.
TOKEN_TILES: dict[str, TokenTile] = {
    "gather": TokenTile(16, num_warps=1),  # rows are planar, as BCTHW clips are
    "gather_reordered": TokenTile(1, num_warps=1),
    "gather_backward": TokenTile(16, num_warps=1),
    "gather_backward_reordered": TokenTile(1, num_warps=1),
    "targets": TokenTile(16, num_warps=1),  # rows have the channel fastest, as BTHWC clips have
    "targets_reordered": TokenTile(1, num_warps=1),
    "loss": TokenTile(16, num_warps=1),
    "loss_reordered": TokenTile(1, num_warps=1),
    "gradient": TokenTile(16, num_warps=1),
    "gradient_reordered": TokenTile(1, num_warps=1),
    "cropped_gather": TokenTile(8, num_warps=8),  # each pixel is a sum of several: fewer of them for each thread
    "cropped_targets": TokenTile(1, num_warps=16),
    "cropped_loss": TokenTile(4, num_warps=8),
    "cropped_gradient": TokenTile(4, num_warps=8),
}
# 16 bytes of four rows for each thread: loads of four times 16 bytes a tensor are under way while warps of a row meet.
WHOLE_ROW_TILES: dict[str, WholeRowTile] = {
    "layer_norm": WholeRowTile(rows=4, columns=8),
    "layer_norm_backward": WholeRowTile(rows=4, columns=8),
}
# Warps of the kernels that sum over rows: 8 and 24 for each SM of an H100, which all fit at once, but the same number
# on any GPU, so that sums repeat. Each program has sums of its own, which are a few hundredths of what it reads.
SUMMING_WARPS = {"layer_norm_backward": 1056, "bias_gelu_backward": 3168}
MAX_WARPS = 8


def row_tile(kernel: str, width: int) -> dict[str, int]:
    """Launch options for rows of `width` elements: as few column blocks as possible, and rows to fill the tile."""
    tile = TILES[kernel]
    columns = min(triton.next_power_of_2(width), MAX_COLUMNS)
    rows = max(1, min(64, tile.elements // columns))
    return {"BLOCK_ROWS": rows, "BLOCK_COLS": columns, "num_warps": tile.num_warps}


def token_tile(kernel: str, width: int, row: Tensor) -> dict[str, int]:
    """Launch options for one row of `width` elements: the tile of `pixels.triton.tile.row_columns`."""
    tile = TOKEN_TILES[kernel]
    vector = max(1, tile.access_bytes // row.element_size())
    lanes = WARP_THREADS * tile.num_warps
    parts = triton.next_power_of_2(triton.cdiv(width, lanes * vector))
    return {"PARTS": parts, "LANES": lanes, "VECTOR": vector, "num_warps": tile.num_warps}


def whole_row_tile(kernel: str, width: int) -> dict[str, int]:
    """Launch options for whole rows of `width` elements; all warps share a row, so each thread sums over rows alone."""
    tile = WHOLE_ROW_TILES[kernel]
    columns = 1 << (width - 1).bit_length()
    warps = min(MAX_WARPS, max(1, columns // (WARP_THREADS * tile.columns)))
    rows = tile.rows * tile.columns * WARP_THREADS * warps // columns
    return {"BLOCK_ROWS": max(1, min(64, rows)), "BLOCK_COLS": columns, "num_warps": warps}


def summing_programs(kernel: str, rows: int, tile: dict[str, int], column_blocks: int = 1) -> int:
    """Programs that share the rows of each of `column_blocks` blocks of columns."""
    programs = SUMMING_WARPS[kernel] // (tile["num_warps"] * column_blocks)
    return min(blocks(rows, tile["BLOCK_ROWS"]), max(1, programs))


def blocks(count: int, size: int) -> int:
    """Blocks of `size` that hold `count`, in plain Python: `triton.cdiv` takes as long as a launch."""
    return -(-count // size)


def reject_float64(**tensors: Tensor) -> None:
    """Kernels compute in float32: refuse float64 rather than lose its precision silently."""
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float64:
            raise TypeError(f"{name} is float64; the Triton kernels compute in float32, use the CPU for float64")
