"""Philox4x32-10, the counter-based generator behind the masks, in plain integer tensor arithmetic.

J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Triton's `tl.philox` is the same function.
"""

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox_keys(sample: Tensor, seed: int, stream: int, positions: int) -> Tensor:
    """(B, positions) int64 keys in [0, 2**31) at counters (position, low sample, high sample, stream)."""
    c0 = torch.arange(positions, device=sample.device).expand(sample.shape[0], -1)
    c1 = (sample & _MASK32)[:, None].expand_as(c0)
    c2 = (sample >> 32 & _MASK32)[:, None].expand_as(c0)
    c3 = torch.full_like(c0, stream & _MASK32)
    k0, k1 = seed & _MASK32, seed >> 32 & _MASK32
    for _ in range(_ROUNDS):
        # int64 products wrap, but their 64 bits are right, so both halves can be read from them.
        even, odd = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (odd >> 32 & _MASK32) ^ c1 ^ k0,
            odd & _MASK32,
            (even >> 32 & _MASK32) ^ c3 ^ k1,
            even & _MASK32,
        )
        k0, k1 = k0 + _KEY_STEPS[0] & _MASK32, k1 + _KEY_STEPS[1] & _MASK32
    return c0 >> 1
