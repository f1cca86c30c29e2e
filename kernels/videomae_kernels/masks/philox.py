"""Philox4x32-10, the counter-based generator behind the masks, in plain integer tensor arithmetic.

J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Triton's `tl.philox` is the same function.
"""

import torch
from torch import Tensor

from .._checks import INT64, check_count, check_seed, check_tensor

MAX_STREAM = 2**32 - 1  # a stream is one word of the counter
_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox_keys(sample: Tensor, seed: int, stream: int, positions: int) -> Tensor:
    """Random integers that are a pure function of their place: the keys that masks are drawn from.

        keys[b, n] = Philox4x32-10 of the counter (n, sample[b] mod 2³², ⌊sample[b] / 2³²⌋, stream), key seed; 31 bits

    Args:
        sample: (B,) int64 sample numbers; the keys are on their device.
        seed: in [0, 2⁶³).
        stream: in [0, 2³²); another stream has other keys. Masks have the streams 0 to 2.
        positions: keys of a sample, below 2³¹.

    Returns:
        (B, positions) int64 in [0, 2³¹), uniform and independent; the same on every device.

    Raises:
        ValueError: a number is out of range, or `sample` has another shape.
        TypeError: `sample` is no int64 tensor, or a number is no integer.

    References:
        J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    check_tensor(sample, "sample", INT64, ("B",))
    seed, stream = check_seed(seed), check_count(stream, "stream", 0, MAX_STREAM)
    positions = check_count(positions, "positions", 0)
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
