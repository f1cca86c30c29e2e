"""Kernels and launchers of the mask ops: one program makes the index list of one sample."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._tiling import TILES, cdiv, next_power_of_2


@triton.jit
def _pair(first, second):
    """Two flags as one number, so that one scan or sum over a block counts both."""
    tl.static_assert(first.shape[0] < 2**15, "a count is a half of an int32")
    return first.to(tl.int32) + (second.to(tl.int32) << 16)


@triton.jit
def _first(pair):
    return pair & 0xFFFF


@triton.jit
def _second(pair):
    return pair >> 16


@triton.jit
def _find_smallest(keys, low, high, KEEP: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    """(threshold, fewer): the KEEP smallest keys are all keys below the threshold and the first KEEP − fewer at it.

    Bisection of [low, high]. It ends when the threshold is the KEEP-th smallest key, or earlier when it has exactly
    KEEP keys at or below it: different keys take about log2(LENGTH) passes.
    """
    fewer = low * 0  # keys below `low`, which ends at the threshold unless bisection ends early: then all ties are kept
    while low < high:
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
        counts = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, LENGTH, BLOCK):
            counts += (tl.load(keys + start + tl.arange(0, BLOCK)) <= middle).to(tl.int32)
        count = tl.sum(counts, axis=0)
        fewer = tl.where(count < KEEP, count, fewer)
        low = tl.where(count < KEEP, middle + 1, tl.where(count == KEEP, middle, low))
        high = tl.where(count < KEEP, high, middle)
    return high, fewer


@triton.jit
def _store_smallest(
    keys,  # (LENGTH,) int32; floats in an order-preserving form are keys, too
    out,  # (REPEATS · KEEP,) int64
    low,  # int32, at or below all keys
    high,  # int32, at or above all keys
    POSITIONS: tl.constexpr,  # of one repeat
    KEEP: tl.constexpr,
    REPEATS: tl.constexpr,
    LENGTH: tl.constexpr,  # a multiple of BLOCK
    BLOCK: tl.constexpr,
):
    """Write the ascending positions of the KEEP smallest keys, the first of equal ones, REPEATS times."""
    threshold, fewer = _find_smallest(keys, low, high, KEEP, LENGTH, BLOCK)
    ties_kept = KEEP - fewer
    below_before = tl.zeros((1,), tl.int32)
    ties_before = tl.zeros((1,), tl.int32)
    for start in range(0, LENGTH, BLOCK):
        position = start + tl.arange(0, BLOCK)
        key = tl.load(keys + position)
        below, tie = key < threshold, key == threshold
        found = _pair(below, tie)
        before = tl.cumsum(found, axis=0) - found
        tie_rank = ties_before + _second(before)
        kept = below | (tie & (tie_rank < ties_kept))
        rank = below_before + _first(before) + tl.minimum(tie_rank, ties_kept)
        for repeat in range(REPEATS):
            tl.store(out + repeat * KEEP + rank, (position + repeat * POSITIONS).to(tl.int64), mask=kept)
        total = tl.sum(found, axis=0)
        below_before += _first(total)
        ties_before += _second(total)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stream"])
def _select_index_kernel(
    sample,  # (B,) int64
    keys,  # (B, LENGTH) int32, scratch
    out,  # (B, REPEATS · KEEP) int64
    seed_low,
    seed_high,
    stream,
    POSITIONS: tl.constexpr,
    KEEP: tl.constexpr,
    REPEATS: tl.constexpr,
    LENGTH: tl.constexpr,  # POSITIONS in whole blocks
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    keys += b * LENGTH
    number = tl.load(sample + b)
    for start in range(0, LENGTH, BLOCK):
        position = start + tl.arange(0, BLOCK)
        word, _, _, _ = tl.philox_impl(
            position.to(tl.uint32),
            number.to(tl.uint32),
            (number >> 32).to(tl.uint32),
            tl.cast(stream, tl.uint32),
            tl.cast(seed_low, tl.uint32),
            tl.cast(seed_high, tl.uint32),
            10,
        )
        # What fills the last block is never kept: no key is larger, and the first of equal keys are kept.
        tl.store(keys + position, tl.where(position < POSITIONS, (word >> 1).to(tl.int32), 0x7FFFFFFF))
    tl.debug_barrier()  # a thread reads keys that others have written
    low = tl.zeros((), tl.int32)
    high = low + 0x7FFFFFFF
    _store_smallest(keys, out + b * (REPEATS * KEEP), low, high, POSITIONS, KEEP, REPEATS, LENGTH, BLOCK)


@triton.jit
def _mask_to_index_kernel(
    mask,  # (B, N) bool
    out,  # (B, COUNT) int64
    complete,  # (B,) bool: whether COUNT positions were found
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
    tl.store(complete + b + tl.arange(0, 1), found == COUNT)


def select_index(sample: Tensor, seed: int, stream: int, positions: int, keep: int, repeats: int, out: Tensor) -> None:
    """Launch for tube_mask_index and random_mask_index."""
    tile = TILES["select_index"]
    block = min(tile.elements, next_power_of_2(positions))
    length = cdiv(positions, block) * block
    _select_index_kernel[(sample.shape[0],)](
        sample.contiguous(),
        sample.new_empty((sample.shape[0], length), dtype=torch.int32),
        out,
        seed & 0xFFFFFFFF,
        seed >> 32,
        stream,
        POSITIONS=positions,
        KEEP=keep,
        REPEATS=repeats,
        LENGTH=length,
        BLOCK=block,
        num_warps=tile.num_warps,
    )


def mask_to_index(mask: Tensor, count: int, out: Tensor) -> None:
    """Launch for mask_to_index; unequal counts trip a device-side assertion, without a host sync."""
    batch, positions = mask.shape
    complete, tile = mask.new_empty((batch,)), TILES["mask_to_index"]
    _mask_to_index_kernel[(batch,)](
        mask,
        out,
        complete,
        POSITIONS=positions,
        COUNT=count,
        BLOCK=min(tile.elements, next_power_of_2(positions)),
        num_warps=tile.num_warps,
    )
    torch._assert_async(complete.all(), f"mask must keep {count} tokens in every sample")


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
            found = _pair(decoded, seen)
            before = tl.cumsum(found, axis=0) - found
            decoded_rank = decoded_before + _first(before)
            overlap_rank = overlap_before + _second(before)
            kept = decoded & (decoded_rank < COUNT)
            if write == 0:
                overlap_total += tl.sum((kept & seen).to(tl.int32), axis=0)
            else:
                # Of the decoded tokens before a loss row, those in the overlap stand in the first part.
                target = tl.where(seen, overlap_rank, overlap_total + decoded_rank - overlap_rank)
                tl.store(decoded_tokens + b * COUNT + target, token.to(tl.int64), mask=kept)
            total = tl.sum(found, axis=0)
            decoded_before += _first(total)
            overlap_before += _second(total)
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


@triton.jit
def _smallest_index_kernel(
    keys,  # (B, LENGTH) int32: negative from token FIRST to token TOKENS; the others are written here
    out,  # (B, KEEP) int64
    FIRST: tl.constexpr,  # tokens that are kept whatever the keys of the others
    TOKENS: tl.constexpr,
    KEEP: tl.constexpr,
    LENGTH: tl.constexpr,  # TOKENS in whole blocks
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    keys += b * LENGTH
    low = tl.full((), -0x80000000, tl.int32)
    for start in range(0, LENGTH, BLOCK):
        position = start + tl.arange(0, BLOCK)
        # What fills the last block is above `high` and so never counted.
        given = tl.where(position < FIRST, low, 0x7FFFFFFF)
        tl.store(keys + position, given, mask=(position < FIRST) | (position >= TOKENS))
    tl.debug_barrier()  # a thread reads keys that others have written
    _store_smallest(keys, out + b * KEEP, low, low * 0 - 1, TOKENS, KEEP, 1, LENGTH, BLOCK)


def new_keys(out: Tensor, tokens: int) -> Tensor:
    """(B, LENGTH) int32 of unwritten keys for `smallest_index`: `tokens` of each sample, in whole blocks."""
    block = _smallest_block(tokens)
    return out.new_empty((out.shape[0], cdiv(tokens, block) * block), dtype=torch.int32)


def smallest_index(keys: Tensor, first: int, tokens: int, out: Tensor) -> None:
    """Fill `out` (B, count) with tokens 0 … first − 1 and those of the smallest keys, which are negative; ascending."""
    _smallest_index_kernel[(keys.shape[0],)](
        keys,
        out,
        FIRST=first,
        TOKENS=tokens,
        KEEP=out.shape[1],
        LENGTH=keys.shape[1],
        BLOCK=_smallest_block(tokens),
        num_warps=TILES["smallest_index"].num_warps,
    )


def _smallest_block(tokens: int) -> int:
    return min(TILES["smallest_index"].elements, next_power_of_2(tokens))
