"""Kernels and launchers of masks drawn from a counter, and of mask_to_index."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import TILES, cdiv, next_power_of_2
from .smallest import store_smallest


@triton.jit
def draw_keys(position, number, stream, seed_low, seed_high):
    """`philox_keys` of the positions, of sample `number` (int64), as int32."""
    word, _, _, _ = tl.philox_impl(
        position.to(tl.uint32),
        number.to(tl.uint32),
        (number >> 32).to(tl.uint32),
        tl.cast(stream, tl.uint32),
        tl.cast(seed_low, tl.uint32),
        tl.cast(seed_high, tl.uint32),
        10,
    )
    return (word >> 1).to(tl.int32)


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
        key = draw_keys(position, number, stream, seed_low, seed_high)
        # What fills the last block is never kept: no key is larger, and the first of equal keys are kept.
        tl.store(keys + position, tl.where(position < POSITIONS, key, 0x7FFFFFFF))
    tl.debug_barrier()  # a thread reads keys that others have written
    low = tl.zeros((), tl.int32)
    high = low + 0x7FFFFFFF
    store_smallest(keys, out + b * (REPEATS * KEEP), 0, low, high, POSITIONS, KEEP, REPEATS, LENGTH, BLOCK)


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
