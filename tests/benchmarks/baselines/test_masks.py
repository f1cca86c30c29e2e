"""The published masks: counts, patterns, and what they have in common with each other."""

import numpy as np
import pytest

from benchmarks.baselines.published.masks import running_cell_mask, tube_mask

# grid, encoder ratio, decoder ratio: N, V, M, overlap (decoded and seen by the encoder)
COUNTS = [
    ((8, 14, 14), 0.9, 0.25, 1568, 160, 1176, 120),
    ((8, 14, 14), 0.9, 0.5, 1568, 160, 784, 80),
    ((8, 14, 14), 0.9, 0.75, 1568, 160, 392, 40),
    ((8, 16, 16), 0.9, 0.5, 2048, 208, 1024, 104),
    ((8, 16, 16), 0.9, 0.25, 2048, 208, 1536, 156),
    ((8, 16, 16), 0.9, 0.75, 2048, 208, 512, 52),
    ((16, 14, 14), 0.9, 0.5, 3136, 320, 1568, 160),
]


@pytest.mark.parametrize("grid, mask_ratio, decoder_mask_ratio, tokens, visible, decoded, overlap", COUNTS)
def test_counts(grid, mask_ratio, decoder_mask_ratio, tokens, visible, decoded, overlap):
    rng = np.random.default_rng(0)
    for draw in range(40):
        hidden = tube_mask(grid, mask_ratio, rng)
        dropped = running_cell_mask(grid, decoder_mask_ratio, draw % 4)
        assert hidden.shape == dropped.shape == (tokens,) and hidden.dtype == dropped.dtype == bool
        assert (~hidden).sum() == visible and (~dropped).sum() == decoded
        assert (~hidden & ~dropped).sum() == overlap


@pytest.mark.parametrize("ratio, hidden", [(0.75, 147), (0.8, 156), (0.9, 176), (0.95, 186)])
def test_tube_ratio_truncates(ratio, hidden):
    mask = tube_mask((8, 14, 14), ratio, np.random.default_rng(0)).reshape(8, 196)
    assert (mask.sum(1) == hidden).all()


def test_tube_is_one_spatial_set_and_random():
    rng = np.random.default_rng(0)
    masks = np.stack([tube_mask((4, 6, 8), 0.5, rng) for _ in range(400)]).reshape(400, 4, 48)
    assert (masks == masks[:, :1]).all()
    frequency = masks[:, 0].mean(0)
    assert abs(frequency - 0.5).max() < 0.15  # six standard deviations of 400 draws
    assert len(np.unique(masks[:, 0], axis=0)) > 390


# Bits TL, TR, BL, BR of the cell, 1 = not decoded, for the first rows at start phase 0.
PATTERNS = {
    0.25: ["0001", "0010", "0100", "1000"],
    0.5: ["1001", "0011", "0110", "1100"],
    0.75: ["1101", "1011", "0111", "1110"],
}


@pytest.mark.parametrize("ratio", PATTERNS)
@pytest.mark.parametrize("phase", range(4))
def test_four_phases(ratio, phase):
    mask = running_cell_mask((8, 4, 6), ratio, phase).reshape(8, 2, 2, 3, 2).transpose(0, 1, 3, 2, 4)
    for frame in range(8):
        cell = PATTERNS[ratio][(frame + phase) % 4]
        for bits in mask[frame].reshape(6, 4):
            assert "".join(str(int(bit)) for bit in bits) == cell


def test_every_position_is_dropped_k_times_in_four_rows():
    for ratio, k in [(0.25, 1), (0.5, 2), (0.9, 3)]:
        mask = running_cell_mask((9, 4, 4), ratio, 2).reshape(9, 16)
        for start in range(6):
            assert (mask[start : start + 4].sum(0) == k).all()


def test_overlap_varies_when_rows_are_not_a_multiple_of_four():
    rng = np.random.default_rng(0)
    overlap = {
        int((~tube_mask((6, 14, 14), 0.9, rng) & ~running_cell_mask((6, 14, 14), 0.5, i % 4)).sum()) for i in range(200)
    }
    assert len(overlap) > 5 and min(overlap) >= 40 and max(overlap) <= 80


def test_maps_are_copies():
    running_cell_mask((4, 4, 4), 0.5, 0)[:] = False
    assert running_cell_mask((4, 4, 4), 0.5, 0).any()


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_running_cell_ratio_error(ratio):
    with pytest.raises(ValueError, match=f"ratio is {ratio}"):
        running_cell_mask((4, 4, 4), ratio, 0)


def test_running_cell_odd_grid_error():
    with pytest.raises(ValueError, match=r"grid is \(8, 7, 7\)"):
        running_cell_mask((8, 7, 7), 0.5, 0)
