"""Kernels and launchers of the mask ops: one program makes the index list of one sample."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._tiling import TILES, next_power_of_2


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stream"])
def _select_index_kernel(
    sample,  # (B,) int64
    out,  # (B, REPEATS · KEEP) int64
    seed_low,
    seed_high,
    stream,
    POSITIONS: tl.constexpr,
    KEEP: tl.constexpr,
    REPEATS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, BLOCK)
    inside = position < POSITIONS
    zero = tl.zeros((BLOCK,), tl.int64)
    number = zero + tl.load(sample + b)
    key, _, _, _ = tl.philox_impl(
        position.to(tl.uint32),
        (number & 0xFFFFFFFF).to(tl.uint32),
        ((number >> 32) & 0xFFFFFFFF).to(tl.uint32),
        (zero + stream).to(tl.uint32),
        (zero + seed_low).to(tl.uint32),
        (zero + seed_high).to(tl.uint32),
        10,
    )
    key = key.to(tl.int64) >> 1
    # The KEEP-th smallest key, by bisection of its value: the smallest t with KEEP keys at or below it.
    low = b * 0
    high = low + 0x7FFFFFFF
    for _ in range(31):
        middle = (low + high) // 2
        enough = tl.sum((inside & (key <= middle)).to(tl.int32), axis=0) >= KEEP
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = inside & (key < high)
    ties = inside & (key == high)
    spare = KEEP - tl.sum(below.to(tl.int32), axis=0)
    kept = below | (ties & (tl.cumsum(ties.to(tl.int32), axis=0) <= spare))
    rank = tl.cumsum(kept.to(tl.int32), axis=0) - 1
    for repeat in range(REPEATS):
        place = b * (REPEATS * KEEP) + repeat * KEEP + rank
        tl.store(out + place, (position + repeat * POSITIONS).to(tl.int64), mask=kept)


@triton.jit
def _mask_to_index_kernel(
    mask,  # (B, N) bool as int8
    out,  # (B, COUNT) int64
    POSITIONS: tl.constexpr,  # N
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    found = tl.zeros((1,), tl.int32)
    for start in range(0, POSITIONS, BLOCK):
        position = start + tl.arange(0, BLOCK)
        kept = tl.load(mask + b * POSITIONS + position, mask=position < POSITIONS, other=0) != 0
        rank = found + tl.cumsum(kept.to(tl.int32), axis=0) - 1
        tl.store(out + b * COUNT + rank, position.to(tl.int64), mask=kept & (rank < COUNT))
        found += tl.sum(kept.to(tl.int32), axis=0)


def select_index(sample: Tensor, seed: int, stream: int, positions: int, keep: int, repeats: int, out: Tensor) -> None:
    """Launch for tube_mask_index and random_mask_index."""
    tile = TILES["select_index" if positions <= TILES["select_index"].elements else "select_index_long"]
    if positions > tile.elements:
        raise ValueError(f"random masks of {positions} tokens: the kernel ranks at most {tile.elements} at once")
    _select_index_kernel[(sample.shape[0],)](
        sample.contiguous(),
        out,
        seed & 0xFFFFFFFF,
        seed >> 32,
        stream,
        POSITIONS=positions,
        KEEP=keep,
        REPEATS=repeats,
        BLOCK=next_power_of_2(positions),
        num_warps=tile.num_warps,
    )


def mask_to_index(mask: Tensor, count: int, out: Tensor) -> None:
    """Launch for mask_to_index; unequal counts trip a device-side assertion, without a host sync."""
    torch._assert_async((mask.sum(dim=1) == count).all(), f"mask must keep {count} tokens in every sample")
    positions, tile = mask.shape[1], TILES["mask_to_index"]
    _mask_to_index_kernel[(mask.shape[0],)](
        mask.view(torch.int8),
        out,
        POSITIONS=positions,
        COUNT=count,
        BLOCK=min(tile.elements, next_power_of_2(positions)),
        num_warps=tile.num_warps,
    )


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
    decoded_tokens,  # (B, COUNT) int64
    num_overlap,  # (B,) int64
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
    phase_offset = tl.load(phase + b).to(tl.int32) + 1
    overlap_total = tl.zeros((1,), tl.int32)
    for write in tl.static_range(2):  # first count the overlap rows, then write both parts
        decoded_before = tl.zeros((1,), tl.int32)
        overlap_before = tl.zeros((1,), tl.int32)
        for start in range(0, TOKENS, BLOCK):
            token = start + tl.arange(0, BLOCK)
            frame, place = token // FRAME_TOKENS, token % FRAME_TOKENS
            slot = place // WIDTH % 2 * 2 + place % WIDTH % 2
            decoded = (token < TOKENS) & ((slot + frame + phase_offset) % 4 >= HIDDEN_SLOTS)
            decoded_rank = decoded_before + tl.cumsum(decoded.to(tl.int32), axis=0) - 1
            decoded = decoded & (decoded_rank < COUNT)
            overlap = _is_listed(visible + b * VISIBLE, token, decoded, VISIBLE, SEARCH_STEPS)
            overlap_rank = overlap_before + tl.cumsum(overlap.to(tl.int32), axis=0) - 1
            if write == 1:
                # Of the decoded tokens before a loss row, those in the overlap stand in the first part.
                loss_rank = overlap_total + decoded_rank - (overlap_rank + 1)
                target = tl.where(overlap, overlap_rank, loss_rank)
                tl.store(decoded_tokens + b * COUNT + target, token.to(tl.int64), mask=decoded)
            decoded_before += tl.sum(decoded.to(tl.int32), axis=0)
            overlap_before += tl.sum(overlap.to(tl.int32), axis=0)
        overlap_total = overlap_before
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
        decoded,
        num_overlap,
        FRAME_TOKENS=grid[1] * grid[2],
        WIDTH=grid[2],
        TOKENS=tokens,
        VISIBLE=visible.shape[1],
        HIDDEN_SLOTS=hidden_slots,
        COUNT=count,
        SEARCH_STEPS=visible.shape[1].bit_length(),
        BLOCK=min(tile.elements, next_power_of_2(tokens)),
        num_warps=tile.num_warps,
    )
