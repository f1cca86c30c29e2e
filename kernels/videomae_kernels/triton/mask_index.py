"""Kernels and launchers of ops.mask_index: one program makes the index list of one sample."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._tiling import TILES


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
        BLOCK=triton.next_power_of_2(positions),
        num_warps=tile.num_warps,
    )


def mask_to_index(mask: Tensor, count: int, out: Tensor) -> None:
    """Launch for ops.mask_to_index; unequal counts trip a device-side assertion, without a synchronisation."""
    torch._assert_async((mask.sum(dim=1) == count).all(), f"mask must keep {count} tokens in every sample")
    positions, tile = mask.shape[1], TILES["mask_to_index"]
    _mask_to_index_kernel[(mask.shape[0],)](
        mask.view(torch.int8),
        out,
        POSITIONS=positions,
        COUNT=count,
        BLOCK=min(tile.elements, triton.next_power_of_2(positions)),
        num_warps=tile.num_warps,
    )
