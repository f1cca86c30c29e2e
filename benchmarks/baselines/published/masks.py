"""The two masks of VideoMAE V2 pre-training, made in numpy as published, to check ours against.

Grids are (T', H', W') tokens, token order (t, h, w) with w fastest. Source: arXiv 2303.16727, section 3,
and the masking generators of https://github.com/OpenGVLab/VideoMAEv2.
"""

from functools import cache

import numpy as np

Grid = tuple[int, int, int]


def tube_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Encoder mask (N,) bool, True = hidden: int(ratio * H'W') random positions, the same for all T'."""
    frames, height, width = grid
    hidden = int(ratio * height * width)
    spatial = np.concatenate([np.zeros(height * width - hidden, bool), np.ones(hidden, bool)])
    rng.shuffle(spatial)
    return np.tile(spatial, (frames, 1)).reshape(-1)


def running_cell_mask(grid: Grid, ratio: float, start_phase: int) -> np.ndarray:
    """Decoder mask (N,) bool, True = not decoded, of one of four start phases; masks int(4 * ratio) of 4."""
    return _running_cell_maps(tuple(grid), ratio)[start_phase].copy()


class _Ring:
    """Four slots and a pointer that is advanced before it is read."""

    def __init__(self, slots: np.ndarray, pointer: int) -> None:
        self.slots, self.pointer = slots, pointer

    def next_cell(self) -> np.ndarray:
        self.pointer = (self.pointer + 1) % 4
        return np.concatenate([self.slots[self.pointer :], self.slots[: self.pointer]]).reshape(2, 2)


@cache
def _running_cell_maps(grid: Grid, ratio: float) -> np.ndarray:
    """All four maps (4, N): a 2 x 2 cell, moved on by one slot per row of T' and repeated over H' x W'."""
    frames, height, width = grid
    masked = int(4 * ratio)
    if not 0 < masked < 4:
        raise ValueError(f"ratio is {ratio}; the running cell masks int(4 * ratio) of 4 slots, which must be 1, 2 or 3")
    if height % 2 or width % 2:
        raise ValueError(f"grid is {grid}; a 2 x 2 running cell needs even H' and W'")
    maps = []
    for phase in range(4):
        ring = _Ring(np.arange(4) < masked, phase)
        maps.append(np.stack([np.tile(ring.next_cell(), (height // 2, width // 2)) for _ in range(frames)]))
    return np.stack(maps).reshape(4, -1)
