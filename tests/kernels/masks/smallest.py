"""A launch of what selects in the mask kernels, for keys of a test's choice."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from videomae_kernels.masks.triton import smallest as kernels


def _smallest_kernel(keys, out, KEEP: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    low = tl.full((), -0x80000000, tl.int32)
    high = tl.full((), 0x7FFFFFFF, tl.int32)
    kernels.store_smallest(keys, out, 0, low, high, LENGTH, KEEP, 1, LENGTH, BLOCK)


def smallest(keys: Tensor, keep: int, block: int) -> Tensor:
    """(keep,) ascending positions of the smallest of (LENGTH,) int32 keys, the first of equal ones."""
    out = torch.full((keep,), -1, dtype=torch.int64, device=keys.device)
    kernel = triton.jit(_smallest_kernel)  # each time: it is interpreted or compiled, as the test's backend asks for
    kernel[(1,)](keys, out, KEEP=keep, LENGTH=keys.shape[0], BLOCK=block)
    return out
