"""running_cell_select: the decoder's tokens under running-cell masking, overlap rows first."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._checks import INDEX, check_grid, check_index, check_ratio, check_tensor
from .._custom_op import define_op
from .._values import check_index_values, check_range


def _decoded(grid: tuple[int, int, int], phase: Tensor, hidden_slots: int) -> Tensor:
    """(B, N) bool: tokens that running-cell masking decodes, before the cut to equal counts."""
    t, h, w = (torch.arange(n, device=phase.device) for n in grid)
    slot_offset = (2 * (h[:, None] % 2) + w % 2) + t[:, None, None] + 1
    return ((slot_offset.flatten() + phase[:, None]) % 4) >= hidden_slots


@lru_cache
def running_cell_count(grid: tuple[int, int, int], hidden_slots: int) -> int:
    """Decoded tokens per sample: the smallest count of the four phases (they differ only for odd grids)."""
    frames, height, width = grid
    sizes = [(height + 1 - row) // 2 * ((width + 1 - col) // 2) for row in (0, 1) for col in (0, 1)]
    repeats = [(frames + 3 - t) // 4 for t in range(4)]  # a cell moves through its slots in 4 frames
    return min(
        sum(
            size * repeats[t]
            for t in range(4)
            for slot, size in enumerate(sizes)
            if (slot + phase + t + 1) % 4 >= hidden_slots
        )
        for phase in range(4)
    )


def _reference(
    visible: Tensor, phase: Tensor, grid: Sequence[int], hidden_slots: int, count: int
) -> tuple[Tensor, Tensor]:
    decoded = _decoded((grid[0], grid[1], grid[2]), phase, hidden_slots)
    decoded &= decoded.cumsum(1) <= count
    overlap = torch.zeros_like(decoded).scatter_(1, visible.long(), True) & decoded
    rank = 2 - decoded.to(torch.uint8) - overlap.to(torch.uint8)  # bytes sort faster than wider numbers
    return rank.argsort(dim=1, stable=True)[:, :count].contiguous(), overlap.sum(1)


def _allocate(
    visible: Tensor, phase: Tensor, grid: Sequence[int], hidden_slots: int, count: int
) -> tuple[Tensor, Tensor]:
    batch = visible.shape[0]
    return visible.new_empty((batch, count), dtype=torch.int64), visible.new_empty((batch,), dtype=torch.int64)


def _launch(*args: Any) -> None:
    from .triton.running_cell import running_cell_select

    running_cell_select(*args)


def _check(visible: Tensor, phase: Tensor, grid: Sequence[int], hidden_slots: int, count: int) -> None:
    check_index_values(visible, "visible", grid[0] * grid[1] * grid[2], ascending=True)
    check_range(phase, "phase", 4)


_op = define_op("running_cell_select", _reference, _allocate, _launch, _check)


def running_cell_select(visible: Tensor, phase: Tensor, grid: Sequence[int], ratio: float) -> tuple[Tensor, Tensor]:
    """Tokens that the decoder gets under running-cell masking, and how many of them the encoder also sees.

        slot(h, w) = 2·(h mod 2) + (w mod 2);   k = int(4·ratio)
        token (t, h, w) is decoded  ⇔  (slot + phase + t + 1) mod 4 ≥ k

    Each 2×2 cell hides k of its four slots and moves on by one slot every frame. Tokens that the encoder also sees
    ("overlap") come first, the rows of the loss last. Where H' or W' is odd the last cells are cropped (the published
    generator fails there). If then T' is no multiple of 4 the four phases decode different numbers of tokens, and
    every sample is cut to the smallest of them, from the end of the token order, so that counts stay fixed.

    Args:
        visible: (B, V) int32 or int64 tokens that the encoder sees, unique per sample and ascending.
        phase: (B,) int32 or int64 in 0…3, drawn per sample.
        grid: (T', H', W') tokens.
        ratio: mask ratio of the decoder, the share of tokens not decoded: 0.25, 0.5 or 0.75; others are truncated.

    Returns:
        decoded: (B, M) int64 token numbers, overlap rows first, each part ascending.
        num_overlap: (B,) int64 rows of the overlap.

    Raises:
        ValueError: a shape, device or value is not allowed, or no token would be left to decode.
        TypeError: an index is not of integers, or a number is of another type.

    References:
        VideoMAE V2 (arXiv 2303.16727), section 3.2; `RunningCellMaskingGenerator`, masking_generator.py
        (OpenGVLab/VideoMAEv2).
    """
    shape = check_grid(grid)
    hidden_slots = int(4 * check_ratio(ratio, low=0.25))  # 1 to 3 of the 4 slots of a cell
    check_tensor(visible, "visible", INDEX, ("B", "V"))
    batch = visible.shape[0]
    visible = check_index(visible, "visible", batch=batch, limit=shape[0] * shape[1] * shape[2], like=visible)
    check_tensor(phase, "phase", INDEX, (batch,), visible)
    count = running_cell_count(shape, hidden_slots)
    if count == 0:
        raise ValueError(f"ratio {ratio} leaves no token to decode on grid {shape}")
    return _op(visible, phase.contiguous(), list(shape), hidden_slots, count)
