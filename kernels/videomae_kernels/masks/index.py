"""Masks as index lists, drawn from a counter: tube_mask_index, random_mask_index, mask_to_index."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._checks import BOOL, INT64, check_count, check_grid, check_ratio, check_seed, check_tensor
from .._custom_op import define_op
from .philox import MAX_STREAM, philox_keys


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
    from .triton.index import select_index

    select_index(*args)


def _launch_mask_to_index(*args: Any) -> None:
    from .triton.index import mask_to_index

    mask_to_index(*args)


_select_op = define_op("select_index", _select_reference, _allocate_select, _launch_select)
_mask_to_index_op = define_op("mask_to_index", _mask_to_index_reference, _allocate_mask_to_index, _launch_mask_to_index)


def _select(sample: Tensor, seed: int, stream: int, positions: int, ratio: float, repeats: int) -> Tensor:
    check_tensor(sample, "sample", INT64, ("B",))
    seed, stream = check_seed(seed), check_count(stream, "stream", 0, MAX_STREAM)
    keep = positions - int(check_ratio(ratio) * positions)
    return _select_op(sample, seed, stream, positions, keep, repeats)


def tube_mask_index(sample: Tensor, grid: Sequence[int], ratio: float, *, seed: int) -> Tensor:
    """Visible tokens of tube masking: the same random positions in every frame.

        key(position) = top 31 bits of Philox4x32-10 at counter (position, sample, stream 0), key seed
        visible = {t·S + s : t < T', s among the S − int(ratio·S) positions of the smallest keys},   S = H'·W'

    A mask is a pure function of (seed, sample number): the same on every device, for every batch composition and any
    split over ranks. Of equal keys the lower position is kept.

    Args:
        sample: (B,) int64 sample numbers; the result is on their device.
        grid: (T', H', W') tokens.
        ratio: mask ratio, the share of positions hidden, in [0, 1). Counts are truncated as published.
        seed: of the run, in [0, 2⁶³).

    Returns:
        (B, T'·(S − int(ratio·S))) int64 token numbers in (t, h, w) order, ascending.

    Raises:
        ValueError: `grid`, `ratio` or `seed` is out of range, or `sample` is no vector.
        TypeError: `sample` is not an int64 tensor, or a number is of another type.

    References:
        `TubeMaskingGenerator` of VideoMAE V2, masking_generator.py (OpenGVLab/VideoMAEv2); J. Salmon et al.,
        "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    frames, height, width = check_grid(grid)
    return _select(sample, seed, 0, height * width, ratio, frames)


def random_mask_index(
    sample: Tensor,
    num_tokens: int,
    ratio: float,
    *,
    seed: int,
    stream: int = 0,
) -> Tensor:
    """Visible tokens of random masking over the whole clip.

        key(token) = top 31 bits of Philox4x32-10 at counter (token, sample, stream), key seed
        visible = the N − int(ratio·N) tokens of the smallest keys

    A pure function of (seed, stream, sample number), as `tube_mask_index` is.

    Args:
        sample: (B,) int64 sample numbers; the result is on their device.
        num_tokens: N, below 2³¹.
        ratio: mask ratio, the share of tokens hidden, in [0, 1). Counts are truncated as published.
        seed: of the run, in [0, 2⁶³).
        stream: in [0, 2³²); masks of different streams are independent.

    Returns:
        (B, N − int(ratio·N)) int64 token numbers, ascending.

    Raises:
        ValueError: `num_tokens`, `ratio`, `seed` or `stream` is out of range, or `sample` is no vector.
        TypeError: `sample` is not an int64 tensor, or a number is of another type.

    References:
        `random_masking` of MAE (arXiv 2111.06377, section 3); J. Salmon et al., SC 2011, for the generator.
    """
    return _select(sample, seed, stream, check_count(num_tokens, "num_tokens"), ratio, 1)


def mask_to_index(mask: Tensor, count: int) -> Tensor:
    """Positions of the True entries of a mask made elsewhere.

        index[b] = ascending positions n with mask[b, n]

    Equals `mask.nonzero()[:, 1].view(B, count)` without its host sync.

    Args:
        mask: (B, N) bool.
        count: True entries in every sample, in [1, N].

    Returns:
        (B, count) int64 positions, ascending.

    Raises:
        TypeError: `mask` is not a boolean tensor, or `count` is no integer.
        ValueError: `mask` is no matrix, `count` is out of range, or (on a CPU) a sample has another number of True
            entries. On a GPU such a sample trips a device-side assertion, since reading the number would be a host
            sync.

    References:
        Replaces the boolean indexing of VideoMAE V2's models/modeling_pretrain.py (OpenGVLab/VideoMAEv2).
    """
    check_tensor(mask, "mask", BOOL, ("B", "N"))
    count = check_count(count, "count", high=mask.shape[1])
    return _mask_to_index_op(mask.contiguous(), count)
