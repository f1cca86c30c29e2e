"""The positions of the smallest of a list of keys, which every mask that is drawn or scored comes down to."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import TILES, cdiv, next_power_of_2


@triton.jit
def pair(first, second):
    """Two flags as one number, so that one scan or sum over a block counts both."""
    tl.static_assert(first.shape[0] < 2**15, "a count is a half of an int32")
    return first.to(tl.int32) + (second.to(tl.int32) << 16)


@triton.jit
def first_of(pair):
    return pair & 0xFFFF


@triton.jit
def second_of(pair):
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
def store_smallest(
    keys,  # (LENGTH,) int32; floats in an order-preserving form are keys, too
    out,  # (REPEATS · KEEP,) int64
    first,  # int32, what is added to every position
    low,  # int32, at or below all keys
    high,  # int32, at or above all keys
    POSITIONS: tl.constexpr,  # of one repeat
    KEEP: tl.constexpr,
    REPEATS: tl.constexpr,
    LENGTH: tl.constexpr,  # a multiple of BLOCK
    BLOCK: tl.constexpr,
):
    """Write `first` + the ascending positions of the KEEP smallest keys, the first of equal ones, REPEATS times."""
    threshold, fewer = _find_smallest(keys, low, high, KEEP, LENGTH, BLOCK)
    ties_kept = KEEP - fewer
    below_before = tl.zeros((1,), tl.int32)
    ties_before = tl.zeros((1,), tl.int32)
    for start in range(0, LENGTH, BLOCK):
        position = start + tl.arange(0, BLOCK)
        key = tl.load(keys + position)
        below, tie = key < threshold, key == threshold
        found = pair(below, tie)
        before = tl.cumsum(found, axis=0) - found
        tie_rank = ties_before + second_of(before)
        kept = below | (tie & (tie_rank < ties_kept))
        rank = below_before + first_of(before) + tl.minimum(tie_rank, ties_kept)
        for repeat in range(REPEATS):
            tl.store(out + repeat * KEEP + rank, (first + position + repeat * POSITIONS).to(tl.int64), mask=kept)
        total = tl.sum(found, axis=0)
        below_before += first_of(total)
        ties_before += second_of(total)


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
    store_smallest(keys, out + b * KEEP, 0, low, low * 0 - 1, TOKENS, KEEP, 1, LENGTH, BLOCK)


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
