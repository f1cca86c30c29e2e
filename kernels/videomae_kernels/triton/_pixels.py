"""What the pixel kernels share: where a token's pixels begin, and per-channel constants on the device."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def token_corner(
    token,  # token numbers, int32
    sample,  # sample of each token, int32
    grid_h,
    grid_w,
    stride_b,
    stride_t,
    stride_h,
    stride_w,
    FRAMES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Offset of the first pixel of channel 0 of each token; int64, since clips pass 2³¹ elements."""
    t = (token // (grid_h * grid_w)).to(tl.int64)
    h = (token // grid_w % grid_h).to(tl.int64)
    w = (token % grid_w).to(tl.int64)
    return sample.to(tl.int64) * stride_b + t * FRAMES * stride_t + h * HEIGHT * stride_h + w * WIDTH * stride_w


@lru_cache(maxsize=64)
def channel_table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Per-channel constants on the device, uploaded once so that no step waits for a copy."""
    return torch.tensor(values, dtype=torch.float32, device=device)
