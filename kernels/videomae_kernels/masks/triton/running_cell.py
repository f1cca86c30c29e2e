"""Kernel and launcher of running_cell_select."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import TILES, next_power_of_2
from .smallest import first_of, pair, second_of


@triton.jit
def _mark_listed(
    marks,  # (TOKENS,) int8
    listed,  # (COUNT,) token numbers; those outside [0, TOKENS) are passed over
    TOKENS: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write 1 at the listed tokens and 0 elsewhere."""
    for start in range(0, TOKENS, BLOCK):
        token = start + tl.arange(0, BLOCK)
        tl.store(marks + token, tl.zeros((BLOCK,), tl.int8), mask=token < TOKENS)
    tl.debug_barrier()  # other threads write the ones
    for start in range(0, COUNT, BLOCK):
        row = start + tl.arange(0, BLOCK)
        token = tl.load(listed + row, mask=row < COUNT, other=-1)
        tl.store(marks + token, tl.full((BLOCK,), 1, tl.int8), mask=(token >= 0) & (token < TOKENS))
    tl.debug_barrier()  # and others read them


@triton.jit
def _running_cell_select_kernel(
    visible,  # (B, V)
    phase,  # (B,)
    marks,  # (B, N) int8, scratch
    decoded_tokens,  # (B, COUNT) int64
    num_overlap,  # (B,) int64
    FRAME_TOKENS: tl.constexpr,  # H'·W'
    WIDTH: tl.constexpr,  # W'
    TOKENS: tl.constexpr,  # N
    VISIBLE: tl.constexpr,  # V
    HIDDEN_SLOTS: tl.constexpr,
    COUNT: tl.constexpr,  # M
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    marks += b * TOKENS
    _mark_listed(marks, visible + b * VISIBLE, TOKENS, VISIBLE, BLOCK)
    phase_offset = tl.load(phase + b).to(tl.int32) + 1
    overlap_total = tl.zeros((1,), tl.int32)
    for write in tl.static_range(2):  # first count the overlap rows, then write both parts
        decoded_before = tl.zeros((1,), tl.int32)
        overlap_before = tl.zeros((1,), tl.int32)
        for start in range(0, TOKENS, BLOCK):
            token = start + tl.arange(0, BLOCK)
            frame, place = token // FRAME_TOKENS, token % FRAME_TOKENS
            slot = (place // WIDTH & 1) * 2 + (place % WIDTH & 1)
            decoded = (token < TOKENS) & ((slot + frame + phase_offset & 3) >= HIDDEN_SLOTS)
            seen = tl.load(marks + token, mask=decoded, other=0) != 0
            found = pair(decoded, seen)
            before = tl.cumsum(found, axis=0) - found
            decoded_rank = decoded_before + first_of(before)
            overlap_rank = overlap_before + second_of(before)
            kept = decoded & (decoded_rank < COUNT)
            if write == 0:
                overlap_total += tl.sum((kept & seen).to(tl.int32), axis=0)
            else:
                # Of the decoded tokens before a loss row, those in the overlap stand in the first part.
                target = tl.where(seen, overlap_rank, overlap_total + decoded_rank - overlap_rank)
                tl.store(decoded_tokens + b * COUNT + target, token.to(tl.int64), mask=kept)
            total = tl.sum(found, axis=0)
            decoded_before += first_of(total)
            overlap_before += second_of(total)
    tl.store(num_overlap + b + tl.arange(0, 1), overlap_total.to(tl.int64))


def running_cell_select(
    visible: Tensor,
    phase: Tensor,
    grid: Sequence[int],
    hidden_slots: int,
    count: int,
    decoded: Tensor,
    num_overlap: Tensor,
) -> None:
    """Launch for running_cell_select."""
    tokens, tile = grid[0] * grid[1] * grid[2], TILES["running_cell_select"]
    _running_cell_select_kernel[(visible.shape[0],)](
        visible,
        phase,
        visible.new_empty((visible.shape[0], tokens), dtype=torch.int8),
        decoded,
        num_overlap,
        FRAME_TOKENS=grid[1] * grid[2],
        WIDTH=grid[2],
        TOKENS=tokens,
        VISIBLE=visible.shape[1],
        HIDDEN_SLOTS=hidden_slots,
        COUNT=count,
        BLOCK=min(tile.elements, next_power_of_2(tokens)),
        num_warps=tile.num_warps,
    )
