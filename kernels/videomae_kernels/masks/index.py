"""Encoder masks as index lists: tube_mask_index, random_mask_index, mask_to_index.

    key(seed, sample, position, stream) = top 31 bits of Philox4x32-10 at counter (position, sample, stream), key seed
    kept tokens of a sample = the positions of its smallest keys, ascending

A mask is a pure function of (seed, sample number): the same on every device, for every batch composition and any
split over ranks. Counts follow the published truncation: int(ratio·S) tokens are hidden. *Tube* draws among the
H'·W' positions of one frame and repeats the choice in every frame (VideoMAE V2, `TubeMaskingGenerator`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import check_grid, check_ratio
from .._custom_op import define_op
from ._philox import philox_keys

MAX_POSITIONS = 65536  # what one Triton program ranks at once


def _select_reference(sample: Tensor, seed: int, stream: int, positions: int, keep: int, repeats: int) -> Tensor:
    keys = philox_keys(sample, seed, stream, positions)
    kept = keys.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values
    frames = torch.arange(repeats, device=sample.device) * positions
    return (kept[:, None, :] + frames[:, None]).flatten(1)


def _allocate_select(sample: Tensor, seed: int, stream: int, positions: int, keep: int, repeats: int) -> Tensor:
    return sample.new_empty((sample.shape[0], repeats * keep), dtype=torch.int64)


def _mask_to_index_reference(mask: Tensor, count: int) -> Tensor:
    counts = mask.sum(dim=1)
    if not bool((counts == count).all()):
        raise ValueError(f"mask must keep {count} tokens in every sample, got counts {counts.tolist()}")
    return (mask.flatten().nonzero().flatten() % mask.shape[1]).view(mask.shape[0], count)


def _allocate_mask_to_index(mask: Tensor, count: int) -> Tensor:
    return mask.new_empty((mask.shape[0], count), dtype=torch.int64)


def _launch_select(*args: Any) -> None:
    from .triton import select_index

    select_index(*args)


def _launch_mask_to_index(*args: Any) -> None:
    from .triton import mask_to_index

    mask_to_index(*args)


_select_op = define_op("select_index", _select_reference, _allocate_select, _launch_select)
_mask_to_index_op = define_op("mask_to_index", _mask_to_index_reference, _allocate_mask_to_index, _launch_mask_to_index)


def _select(sample: Tensor, seed: int, stream: int, positions: int, ratio: float, repeats: int) -> Tensor:
    if sample.ndim != 1 or sample.dtype != torch.int64:
        raise TypeError(f"sample must be an int64 vector of sample numbers, got {sample.dtype} {tuple(sample.shape)}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    if positions > MAX_POSITIONS:
        raise ValueError(f"at most {MAX_POSITIONS} positions can be masked at once, got {positions}")
    keep = positions - int(check_ratio(ratio) * positions)
    return _select_op(sample, seed, stream, positions, keep, repeats)


def tube_mask_index(
    sample: Tensor,  # (B,) int64 sample numbers; their device is the result's
    grid: Sequence[int],  # (T', H', W')
    ratio: float,  # of positions hidden, in [0, 1)
    *,
    seed: int,
) -> Tensor:  # (B, T'·(S − int(ratio·S))) int64, ascending, with S = H'·W'
    """Visible tokens of tube masking: the same random positions in every frame."""
    frames, height, width = check_grid(grid)
    return _select(sample, seed, 0, height * width, ratio, frames)


def random_mask_index(
    sample: Tensor,  # (B,) int64 sample numbers; their device is the result's
    num_tokens: int,  # N
    ratio: float,  # of tokens hidden, in [0, 1)
    *,
    seed: int,
    stream: int = 0,  # masks of different streams are independent
) -> Tensor:  # (B, N − int(ratio·N)) int64, ascending
    """Visible tokens of random masking over the whole clip."""
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be positive, got {num_tokens}")
    return _select(sample, seed, stream, num_tokens, ratio, 1)


def mask_to_index(
    mask: Tensor,  # (B, N) bool
    count: int,  # True entries in every sample
) -> Tensor:  # (B, count) int64, ascending
    """Positions of the True entries of a mask made elsewhere.

    Equals `mask.nonzero()[:, 1].view(B, count)` without its synchronisation. A sample with another count raises
    ValueError on CPU and trips a device-side assertion on a GPU, where reading the count would make the host wait.
    """
    if mask.dtype != torch.bool or mask.ndim != 2:
        raise TypeError(f"mask must be a boolean (B, N) tensor, got {mask.dtype} {tuple(mask.shape)}")
    if not 0 < count <= mask.shape[1]:
        raise ValueError(f"count must be in [1, {mask.shape[1]}], got {count}")
    return _mask_to_index_op(mask.contiguous(), count)
