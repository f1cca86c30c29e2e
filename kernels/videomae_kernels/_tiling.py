"""How much one program of each kernel handles: every launcher takes its entry of `TILES` when it launches.

Predicted, not measured: rows in 128-bit accesses, about 4,096 elements for 128 threads, and one warp per token where
a token has to be summed, so that warps need not synchronise. Replace an entry to try something else.

Row numbers are int32 in every kernel and offsets are int64: an index of 2³¹ rows would take 16 GiB by itself, while
clips and token tensors do pass 2³¹ elements; and a 64-bit division is a subroutine call on a GPU.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

COLUMNS = (1024, 512, 256, 128, 64)  # of a block of a row: 64 bfloat16 are a cache line
IDLE_SHARE = 1 / 8  # of the lanes of a row's blocks, which a wider block may leave without an element


def cdiv(numerator: int, denominator: int) -> int:
    """numerator / denominator, rounded up. `triton.cdiv` costs the host some microseconds a call, this 0.1."""
    return -(-numerator // denominator)


def next_power_of_2(number: int) -> int:
    """The smallest power of two at or above a positive `number`; for `triton.next_power_of_2` as `cdiv` is."""
    return 1 << (number - 1).bit_length()


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
class ThreadTile:
    """A thread takes `columns` neighbours of each of `rows` rows, or a like number; all warps lie side by side."""

    rows: int
    columns: int


TILES: dict[str, Tile] = {
    "copy_rows": Tile(4096, num_warps=4),
    "assemble_decoder_tokens": Tile(4096, num_warps=4),
    "bias_gelu": Tile(4096, num_warps=4),
    "select_index": Tile(2048, num_warps=8),
    "weighted_index": Tile(1024, num_warps=8),
    "mask_to_index": Tile(2048, num_warps=8),
    "running_cell_select": Tile(2048, num_warps=8),
    "smallest_index": Tile(1024, num_warps=8),
    "contrastive_loss": Tile(4096, num_warps=4),
    "contrastive_loss_backward": Tile(4096, num_warps=4),
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
    "changed": TokenTile(16, num_warps=1),  # sums of pixels, in the order of the clip
}
# Eight bfloat16 of four rows for each thread: loads of four times 16 bytes a tensor are under way while the warps of a
# row meet. A thread has all rows of its columns, so sums over rows stay in its registers. RMSNorm has a scaled branch,
# one tensor and one sum more: with twice its rows, Triton 3.2 or 3.9 spills registers.
THREAD_TILES: dict[str, ThreadTile] = {
    "layer_norm": ThreadTile(rows=4, columns=8),
    "layer_norm_backward": ThreadTile(rows=4, columns=8),
    "rms_norm": ThreadTile(rows=2, columns=8),
    "rms_norm_backward": ThreadTile(rows=1, columns=8),
    "add_drawn_norm": ThreadTile(rows=4, columns=8),
    "add_drawn_norm_backward": ThreadTile(rows=2, columns=8),
    "bias_gelu_backward": ThreadTile(rows=2, columns=8),
    "alignment_loss": ThreadTile(rows=4, columns=8),
    "alignment_loss_backward": ThreadTile(rows=4, columns=8),
}
# Warps of the kernels that sum over rows: 8 and 24 for each SM of an H100, which all fit at once, but the same number
# on any GPU, so that sums repeat. Each program has sums of its own, which are a few hundredths of what it reads.
SUMMING_WARPS = {
    "layer_norm_backward": 1056,
    "rms_norm_backward": 1056,
    "add_drawn_norm_backward": 1056,
    "bias_gelu_backward": 3168,
    "alignment_loss_backward": 1056,
}
MAX_WARPS = 8

PAIR_COLUMNS = 128  # of a tile of products: a row's lie in one warp, with 16 bytes for each thread
PIXEL_WARPS = 4  # of a program of warp_clips, whose threads have one pixel each
CROP_ROWS = 4  # of a token, that share the sums of source rows: of 1 to 16, the fewest instructions, counted


def row_tile(kernel: str, width: int) -> Mapping[str, int]:
    """Launch options for rows of `width` elements: few column blocks and few idle lanes, and rows to fill the tile."""
    return _row_tile(TILES[kernel], width)


@lru_cache
def _row_tile(tile: Tile, width: int) -> Mapping[str, int]:
    columns = row_columns(width)
    rows = max(1, min(64, tile.elements // columns))
    return {"BLOCK_ROWS": rows, "BLOCK_COLS": columns, "num_warps": tile.num_warps}


def pair_tile(kernel: str) -> Mapping[str, int]:
    """Launch options for products of rows with rows, which are reduced in both directions."""
    tile = TILES[kernel]
    return {
        "BLOCK_ROWS": tile.elements // PAIR_COLUMNS,
        "BLOCK_COLS": PAIR_COLUMNS,
        "num_warps": tile.num_warps,
    }


def row_columns(width: int) -> int:
    """Columns of a block: as many as leave at most `IDLE_SHARE` of the lanes idle, or else the fewest idle lanes."""
    whole = next_power_of_2(width)
    lanes = {columns: cdiv(width, columns) * columns for columns in COLUMNS if columns <= whole} or {whole: whole}
    wide = [columns for columns in lanes if lanes[columns] - width <= IDLE_SHARE * lanes[columns]]
    return wide[0] if wide else min(lanes, key=lanes.__getitem__)


def token_tile(kernel: str, width: int, row: Tensor) -> Mapping[str, int]:
    """Launch options for one row of `width` elements: the tile of `pixels.triton.tile.row_columns`."""
    return _token_tile(TOKEN_TILES[kernel], width, row.element_size(), warp_threads(row.device))


@lru_cache
def _token_tile(tile: TokenTile, width: int, element_size: int, warp: int) -> Mapping[str, int]:
    vector = max(1, tile.access_bytes // element_size)
    lanes = warp * tile.num_warps
    parts = next_power_of_2(cdiv(width, lanes * vector))
    return {"PARTS": parts, "LANES": lanes, "VECTOR": vector, "num_warps": tile.num_warps}


def whole_row_tile(kernel: str, row: Tensor) -> Mapping[str, int]:
    """Launch options for rows like `row`, in one block of columns.

    A lane has two columns or more: of a sum of products whose lanes have one each, compilers round the product of one
    lane and fuse the other's, so that the lanes of a row disagree in the last bit.
    """
    warp = warp_threads(row.device)
    return _thread_tile(THREAD_TILES[kernel], max(2 * warp, next_power_of_2(row.shape[-1])), warp)


def summing_tile(kernel: str, row: Tensor) -> Mapping[str, int]:
    """Launch options for rows like `row` whose columns are summed, in the blocks of `row_columns`."""
    return _thread_tile(THREAD_TILES[kernel], row_columns(row.shape[-1]), warp_threads(row.device))


@lru_cache
def _thread_tile(tile: ThreadTile, columns: int, warp: int) -> Mapping[str, int]:
    warps = min(MAX_WARPS, max(1, columns // (warp * tile.columns)))
    rows = tile.rows * tile.columns * warp * warps // columns
    return {"BLOCK_ROWS": max(1, min(64, rows)), "BLOCK_COLS": columns, "num_warps": warps}


def summing_programs(kernel: str, rows: int, tile: Mapping[str, int], column_blocks: int = 1) -> int:
    """Programs that share the rows of each of `column_blocks` blocks of columns."""
    programs = SUMMING_WARPS[kernel] // (tile["num_warps"] * column_blocks)
    return min(cdiv(rows, tile["BLOCK_ROWS"]), max(1, programs))


@lru_cache
def crop_tile(channels: int, frames: int, height: int, width: int, device: torch.device) -> Mapping[str, int]:
    """Launch options for the pixels of one token of a crop: a lane for each column of each frame."""
    group = min(CROP_ROWS, next_power_of_2(height))
    # In a warp with fewer columns several lanes sum the same pixels, and can differ by a rounding. Triton 3.7 does not
    # compile 64 lanes for AMD.
    lanes = max(32, next_power_of_2(frames * width))
    return {
        "CHANNEL_TILE": next_power_of_2(channels),
        "GROUP_TILE": next_power_of_2(cdiv(height, group)),
        "GROUP": group,
        "LANES": lanes,
        "num_warps": max(1, lanes // warp_threads(device)),
    }


@lru_cache
def pixel_tile(device: torch.device) -> Mapping[str, int]:
    """Launch options for pixels side by side: one for each thread, so that a warp's accesses are neighbours."""
    return {"PIXELS": PIXEL_WARPS * warp_threads(device), "num_warps": PIXEL_WARPS}


@lru_cache
def warp_threads(device: torch.device) -> int:
    """Threads of a warp of the current device: 32, or 64 on AMD's CDNA. Triton knows; its interpreter has no warps."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return 32
    return int(triton.runtime.driver.active.get_current_target().warp_size)


def reject_float64(**tensors: Tensor) -> None:
    """Kernels compute in float32: refuse float64 rather than lose its precision silently."""
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float64:
            raise TypeError(f"{name} is float64; the Triton kernels compute in float32, use the CPU for float64")
