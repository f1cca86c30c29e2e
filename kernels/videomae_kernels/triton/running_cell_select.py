"""Kernel and launcher of ops.running_cell_select: one program orders the decoded tokens of one sample."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._tiling import TILES


@triton.jit
def _is_listed(values, token, inside, COUNT: tl.constexpr, STEPS: tl.constexpr):
    """Whether each token is among COUNT ascending values, by binary search."""
    low = token * 0
    high = low + COUNT
    for _ in range(STEPS):
        middle = (low + high) // 2
        searching = inside & (low < high)
        value = tl.load(values + middle, mask=searching, other=0)
        high = tl.where(searching & (value >= token), middle, high)
        low = tl.where(searching & (value < token), middle + 1, low)
    found = inside & (low < COUNT)
    return found & (tl.load(values + low, mask=found, other=-1) == token)


@triton.jit
def _running_cell_select_kernel(
    visible,  # (B, V) ascending
    phase,  # (B,)
    decode,  # (B, COUNT) int64
    n_overlap,  # (B,) int64
    FRAME_TOKENS: tl.constexpr,  # H'·W'
    WIDTH: tl.constexpr,  # W'
    TOKENS: tl.constexpr,  # N
    VISIBLE: tl.constexpr,  # V
    HIDDEN_SLOTS: tl.constexpr,
    COUNT: tl.constexpr,  # M
    SEARCH_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    turn = tl.load(phase + b).to(tl.int32) + 1
    overlap_total = tl.zeros((1,), tl.int32)
    for write in tl.static_range(2):  # first count the overlap rows, then write both parts
        decoded_before = tl.zeros((1,), tl.int32)
        overlap_before = tl.zeros((1,), tl.int32)
        for start in range(0, TOKENS, BLOCK):
            token = start + tl.arange(0, BLOCK)
            frame, place = token // FRAME_TOKENS, token % FRAME_TOKENS
            slot = place // WIDTH % 2 * 2 + place % WIDTH % 2
            decoded = (token < TOKENS) & ((slot + frame + turn) % 4 >= HIDDEN_SLOTS)
            decoded_rank = decoded_before + tl.cumsum(decoded.to(tl.int32), axis=0) - 1
            decoded = decoded & (decoded_rank < COUNT)
            overlap = _is_listed(visible + b * VISIBLE, token, decoded, VISIBLE, SEARCH_STEPS)
            overlap_rank = overlap_before + tl.cumsum(overlap.to(tl.int32), axis=0) - 1
            if write == 1:
                # Of the decoded tokens before a loss row, those in the overlap stand in the first part.
                loss_rank = overlap_total + decoded_rank - (overlap_rank + 1)
                target = tl.where(overlap, overlap_rank, loss_rank)
                tl.store(decode + b * COUNT + target, token.to(tl.int64), mask=decoded)
            decoded_before += tl.sum(decoded.to(tl.int32), axis=0)
            overlap_before += tl.sum(overlap.to(tl.int32), axis=0)
        overlap_total = overlap_before
    tl.store(n_overlap + b + tl.arange(0, 1), overlap_total.to(tl.int64))


def running_cell_select(
    visible: Tensor,
    phase: Tensor,
    grid: Sequence[int],
    hidden_slots: int,
    count: int,
    decode: Tensor,
    n_overlap: Tensor,
) -> None:
    """Launch for ops.running_cell_select."""
    tokens, tile = grid[0] * grid[1] * grid[2], TILES["running_cell_select"]
    _running_cell_select_kernel[(visible.shape[0],)](
        visible,
        phase,
        decode,
        n_overlap,
        FRAME_TOKENS=grid[1] * grid[2],
        WIDTH=grid[2],
        TOKENS=tokens,
        VISIBLE=visible.shape[1],
        HIDDEN_SLOTS=hidden_slots,
        COUNT=count,
        SEARCH_STEPS=visible.shape[1].bit_length(),
        BLOCK=min(tile.elements, triton.next_power_of_2(tokens)),
        num_warps=tile.num_warps,
    )
