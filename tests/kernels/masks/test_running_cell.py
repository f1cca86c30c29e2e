import importlib

import pytest
import torch

from videomae_kernels import _tiling, running_cell_select, tube_mask_index
from videomae_kernels.testing import make_index

GRIDS = [(4, 4, 6), (8, 2, 2), (4, 3, 5), (5, 4, 4), (6, 3, 3), (2, 1, 5), (3, 5, 4), (1, 3, 4)]


def hidden_map(grid, phase, ratio):
    """The published generator, cells at odd borders cropped: (T', H', W') bool, True = not decoded."""
    hidden = int(4 * ratio)
    ring = [True] * hidden + [False] * (4 - hidden)
    out = torch.zeros(grid, dtype=torch.bool)
    for frame in range(grid[0]):
        top_left, top_right, bottom_left, bottom_right = (ring[(slot + phase + frame + 1) % 4] for slot in range(4))
        cell = torch.tensor([[top_left, top_right], [bottom_left, bottom_right]])
        out[frame] = cell.repeat((grid[1] + 1) // 2, (grid[2] + 1) // 2)[: grid[1], : grid[2]]
    return out


def expected(visible, phase, grid, ratio):
    """(overlap rows, loss rows) of one sample, by enumeration."""
    decoded = [(~hidden_map(grid, p, ratio)).flatten().nonzero()[:, 0].tolist() for p in range(4)]
    count = min(map(len, decoded))
    kept = decoded[phase][:count]
    return [n for n in kept if n in visible], [n for n in kept if n not in visible]


@pytest.mark.parametrize(
    ("ratio", "phase", "bits"),
    [  # slots TL, TR, BL, BR of frames 0…3; 1 = not decoded
        (0.5, 0, ["1001", "0011", "0110", "1100"]),
        (0.5, 1, ["0011", "0110", "1100", "1001"]),
        (0.25, 0, ["0001", "0010", "0100", "1000"]),
        (0.75, 0, ["1101", "1011", "0111", "1110"]),
    ],
)
def test_published_phase_patterns(ratio, phase, bits, backend):
    visible = torch.zeros(1, 1, dtype=torch.int64, device=backend.device)
    phases = torch.tensor([phase], device=backend.device)
    index, _ = running_cell_select(visible, phases, (8, 2, 2), ratio)
    decoded = set(index[0].tolist())
    frames = ["".join("0" if 4 * t + slot in decoded else "1" for slot in range(4)) for t in range(8)]
    assert frames == bits * 2


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_selection_by_enumeration(grid, ratio, index, backend):
    tokens = grid[0] * grid[1] * grid[2]
    if min(int((~hidden_map(grid, p, ratio)).sum()) for p in range(4)) == 0:
        pytest.skip("nothing to decode")
    visible = make_index(4, max(1, tokens // 5), tokens, dtype=index, device=backend.device)
    phase = torch.tensor([0, 1, 2, 3], dtype=index, device=backend.device)
    decoded, num_overlap = running_cell_select(visible, phase, grid, ratio)
    assert decoded.dtype == num_overlap.dtype == torch.int64
    for b in range(4):
        overlap, loss = expected(visible[b].tolist(), b, grid, ratio)
        assert int(num_overlap[b]) == len(overlap)
        assert decoded[b].tolist() == overlap + loss


@pytest.mark.parametrize(("grid", "block"), [((4, 4, 6), 16), ((5, 4, 4), 8), ((6, 3, 3), 4), ((11, 14, 15), 2048)])
def test_tokens_of_several_blocks(grid, block, backend, monkeypatch):
    """Also where samples are cut to equal counts: T' = 5, 6 and 11."""
    monkeypatch.setitem(_tiling.TILES, "running_cell_select", _tiling.Tile(block, num_warps=2))
    tokens = grid[0] * grid[1] * grid[2]
    visible = make_index(4, tokens // 4, tokens, device=backend.device)
    decoded, num_overlap = running_cell_select(visible, torch.arange(4, device=backend.device), grid, 0.5)
    for b in range(4):
        overlap, loss = expected(set(visible[b].tolist()), b, grid, 0.5)
        assert int(num_overlap[b]) == len(overlap)
        assert decoded[b].tolist() == overlap + loss


def test_numbers_that_are_no_tokens_are_passed_over(backend):
    """The op need not check values, but its kernel must not write outside its memory."""
    if not backend.runs_triton:
        pytest.skip("the reference indexes with them")
    launch = importlib.import_module("videomae_kernels.masks.triton.running_cell").running_cell_select
    phase = torch.tensor([1], device=backend.device)
    visible = torch.tensor([[-(2**40), -1, 3, 50, 96, 2**40]], device=backend.device)
    decoded, num_overlap = phase.new_empty((1, 48)), phase.new_empty((1,))
    launch(visible, phase, (4, 4, 6), 2, 48, decoded, num_overlap)
    right, right_overlap = running_cell_select(visible[:, 2:4], phase, (4, 4, 6), 0.5)
    assert torch.equal(decoded, right)
    assert torch.equal(num_overlap, right_overlap)


@pytest.mark.parametrize(
    ("grid", "ratio", "count", "overlap"),
    [
        ((8, 14, 14), 0.25, 1176, 120),
        ((8, 14, 14), 0.5, 784, 80),
        ((8, 14, 14), 0.75, 392, 40),
        ((8, 16, 16), 0.5, 1024, 104),
        ((8, 16, 16), 0.25, 1536, 156),
        ((8, 16, 16), 0.75, 512, 52),
        ((16, 14, 14), 0.5, 1568, 160),
    ],
)
def test_published_counts(grid, ratio, count, overlap):
    """Under tube masking of 90 %, the same for every draw and phase when T' is a multiple of 4."""
    samples = torch.arange(64)
    visible = tube_mask_index(samples, grid, 0.9, seed=5)
    decoded, num_overlap = running_cell_select(visible, samples % 4, grid, ratio)
    assert decoded.shape == (64, count)
    assert (num_overlap == overlap).all()


def test_published_counts_with_the_kernel(backend):
    samples = torch.arange(4, device=backend.device)
    visible = tube_mask_index(samples, (8, 14, 14), 0.9, seed=5)
    decoded, num_overlap = running_cell_select(visible, samples, (8, 14, 14), 0.5)
    assert decoded.shape == (4, 784)
    assert (num_overlap == 80).all()


def test_the_overlap_varies_when_frames_are_no_multiple_of_four():
    """T' = 6: between 51 and 69 around 60 (the reason that num_overlap is per sample)."""
    samples = torch.arange(400)
    visible = tube_mask_index(samples, (6, 14, 14), 0.9, seed=5)
    _, num_overlap = running_cell_select(visible, samples % 4, (6, 14, 14), 0.5)
    assert len(num_overlap.unique()) > 5
    assert abs(float(num_overlap.double().mean()) - 60) < 1


def test_overlap_rows_are_visible_and_loss_rows_are_not(backend):
    visible = make_index(3, 20, 96, device=backend.device)
    decoded, num_overlap = running_cell_select(visible, torch.tensor([0, 3, 1], device=backend.device), (4, 4, 6), 0.5)
    for b in range(3):
        seen = torch.isin(decoded[b], visible[b])
        assert torch.equal(seen, torch.arange(48, device=backend.device) < num_overlap[b])


@pytest.mark.parametrize("kept", [1, 96], ids=["one", "all"])
def test_extreme_visible_sets(kept, backend):
    visible = make_index(2, kept, 96, device=backend.device)
    decoded, num_overlap = running_cell_select(visible, torch.tensor([2, 0], device=backend.device), (4, 4, 6), 0.5)
    for b, phase in enumerate((2, 0)):
        overlap, loss = expected(visible[b].tolist(), phase, (4, 4, 6), 0.5)
        assert (decoded[b].tolist(), int(num_overlap[b])) == (overlap + loss, len(overlap))


def test_samples_do_not_affect_each_other(backend):
    visible = make_index(3, 20, 96, device=backend.device)
    phase = torch.tensor([0, 3, 1], device=backend.device)
    decoded, num_overlap = running_cell_select(visible, phase, (4, 4, 6), 0.5)
    for b in range(3):
        alone, n_alone = running_cell_select(visible[b : b + 1], phase[b : b + 1], (4, 4, 6), 0.5)
        assert torch.equal(alone[0], decoded[b])
        assert n_alone[0] == num_overlap[b]
