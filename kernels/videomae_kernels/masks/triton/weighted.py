"""Kernel and launcher of weighted_mask_index."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..._tiling import TILES, cdiv, next_power_of_2
from ..weighted import COEFFICIENTS
from .index import draw_keys
from .smallest import store_smallest

_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = (tl.constexpr(c) for c in COEFFICIENTS)
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def _exponentials(key):
    """`weighted.exponentials` of int32 keys."""
    bits = (key.to(tl.int64) * 2 + 1).to(tl.float64).to(tl.int64, bitcast=True)
    y = ((1 << 52) - (bits & ((1 << 52) - 1))) >> 21
    scaled = y - (1 << 30)
    ratio = _C7 + (_C8 * scaled >> 30)
    ratio = _C6 + (ratio * scaled >> 30)
    ratio = _C5 + (ratio * scaled >> 30)
    ratio = _C4 + (ratio * scaled >> 30)
    ratio = _C3 + (ratio * scaled >> 30)
    ratio = _C2 + (ratio * scaled >> 30)
    ratio = _C1 + (ratio * scaled >> 30)
    ratio = _C0 + (ratio * scaled >> 30)
    return ((1023 + 31 - (bits >> 52)) << 47) + (ratio * y >> 15)


@triton.jit
def _order(drawn, weight):
    """int32 in the order of drawn / weight, a float32; the largest for a weight that is not positive.

    Quotients are normal: their exponents lie in [-113, 201] around 44, so 9 bits hold them beside 23 of the fraction.
    """
    positive = weight > 0
    finite = tl.minimum(tl.where(positive, weight, 1), _LARGEST)
    quotient = drawn.to(tl.float64) / finite.to(tl.float64)
    order = (quotient.to(tl.int64, bitcast=True) >> 29) - ((1023 + 44) << 23)
    return tl.where(positive, order.to(tl.int32), 0x7FFFFFFF)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "stream"])
def _weighted_index_kernel(
    weights,  # (B, GROUPS, POSITIONS), of any strides
    sample,  # (B,) int64
    keys,  # (B · GROUPS, LENGTH) int32, scratch
    out,  # (B, GROUPS · KEEP) int64
    stride_b,
    stride_g,
    stride_n,
    seed_low,
    seed_high,
    stream,
    GROUPS: tl.constexpr,
    POSITIONS: tl.constexpr,
    KEEP: tl.constexpr,
    LENGTH: tl.constexpr,  # POSITIONS in whole blocks
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    b, group = row // GROUPS, row % GROUPS
    weights += b * stride_b + group * stride_g
    keys += row * LENGTH
    number = tl.load(sample + b)
    first = (group * POSITIONS).to(tl.int32)
    low = tl.full((), 0x7FFFFFFF, tl.int32)
    high = tl.full((), -0x80000000, tl.int32)
    for start in range(0, LENGTH, BLOCK):
        position = start + tl.arange(0, BLOCK)
        inside = position < POSITIONS
        weight = tl.load(weights + position.to(tl.int64) * stride_n, mask=inside, other=0).to(tl.float32)
        drawn = _exponentials(draw_keys(first + position, number, stream, seed_low, seed_high))
        # What fills the last block is never kept: no key is larger, and the first of equal keys are kept.
        key = _order(drawn, weight)
        tl.store(keys + position, key)
        low = tl.minimum(low, tl.min(key, axis=0))
        high = tl.maximum(high, tl.max(key, axis=0))
    tl.debug_barrier()  # a thread reads keys that others have written
    store_smallest(keys, out + row * KEEP, first, low, high, POSITIONS, KEEP, 1, LENGTH, BLOCK)


def weighted_index(weights: Tensor, sample: Tensor, seed: int, stream: int, keep: int, out: Tensor) -> None:
    """Launch for weighted_mask_index: one program for each group."""
    batch, groups, positions = weights.shape
    tile = TILES["weighted_index"]
    block = min(tile.elements, next_power_of_2(positions))
    length = cdiv(positions, block) * block
    _weighted_index_kernel[(batch * groups,)](
        weights,
        sample,
        sample.new_empty((batch * groups, length), dtype=torch.int32),
        out,
        *weights.stride(),
        seed & 0xFFFFFFFF,
        seed >> 32,
        stream,
        GROUPS=groups,
        POSITIONS=positions,
        KEEP=keep,
        LENGTH=length,
        BLOCK=block,
        num_warps=tile.num_warps,
    )
