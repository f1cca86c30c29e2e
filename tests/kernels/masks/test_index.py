import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.truth import MASK32, philox
from videomae_kernels import _tiling, mask_to_index, random_mask_index, tube_mask_index
from videomae_kernels.testing import make_index


def kept_positions(sample, positions, keep, seed, stream=0):
    """The definition in the docstrings of masks/index.py."""
    key = seed & MASK32, seed >> 32
    number = sample & MASK32, sample >> 32 & MASK32
    keys = [(philox((n, *number, stream), key)[0] >> 1, n) for n in range(positions)]
    return sorted(n for _, n in sorted(keys)[:keep])


def test_the_generator_gives_the_published_numbers():
    """Known answers of the Random123 distribution."""
    assert philox((0,) * 4, (0,) * 2) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((MASK32,) * 4, (MASK32,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


@pytest.mark.parametrize("sample", [0, 1, 2**31, 2**32 + 5, 2**62])
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**63 - 1])
def test_masks_follow_their_definition(seed, sample, backend):
    """Pins every mask of every release: a resumed run must draw the same ones."""
    numbers = torch.tensor([sample], device=backend.device)
    frame = kept_positions(sample, 15, 4, seed)
    tube = tube_mask_index(numbers, (3, 3, 5), 0.75, seed=seed)
    assert tube[0].tolist() == [15 * t + n for t in range(3) for n in frame]
    for stream in (0, 1, 9):
        random = random_mask_index(numbers, 23, 0.8, seed=seed, stream=stream)
        assert random[0].tolist() == kept_positions(sample, 23, 5, seed, stream)


@pytest.mark.parametrize(("tokens", "ratio"), [(2049, 0.5), (4096, 0.9), (5000, 0.75), (4097, 0.0), (4097, 1 - 1e-9)])
def test_masks_of_several_blocks_follow_their_definition(tokens, ratio, backend):
    keep = tokens - int(ratio * tokens)
    index = random_mask_index(torch.tensor([7, 2**40], device=backend.device), tokens, ratio, seed=3, stream=1)
    assert index.tolist() == [kept_positions(sample, tokens, keep, 3, 1) for sample in (7, 2**40)]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [16384, 65536, 131072])
def test_masks_of_long_clips_follow_their_definition(tokens, backend):
    index = random_mask_index(torch.tensor([5], device=backend.device), tokens, 0.75, seed=3)
    assert index[0].tolist() == kept_positions(5, tokens, tokens - int(0.75 * tokens), 3)
    tube = tube_mask_index(torch.tensor([5], device=backend.device), (2, 1, tokens), 0.75, seed=3)
    assert torch.equal(tube, torch.cat([index, index + tokens], 1))


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("keep", [1, 31, 63, 64])
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(lambda: torch.arange(64).flip(0), id="descending"),
        pytest.param(lambda: torch.zeros(64), id="equal"),
        pytest.param(lambda: torch.arange(64) % 3 - 1, id="three_values"),
        pytest.param(lambda: torch.randint(-(2**31), 2**31, (64,)), id="of_all_int32"),
        pytest.param(lambda: torch.tensor([-(2**31), 2**31 - 1]).repeat(32), id="extreme"),
    ],
)
def test_the_smallest_keys_are_selected(keys, keep, block, backend):
    """Keys of any order and with any ties, as floats in an order-preserving form can have."""
    if not backend.runs_triton:
        pytest.skip("the reference sorts")
    smallest = importlib.import_module("tests.kernels.masks.smallest").smallest
    values = keys().to(torch.int32)
    kept = sorted(sorted(range(64), key=lambda n: (values[n], n))[:keep])
    assert smallest(values.to(backend.device), keep, block).tolist() == kept


@pytest.mark.parametrize("block", [64, 2048])
def test_of_two_equal_keys_the_lower_position_is_kept(block, backend, monkeypatch):
    """Sample 278 of seed 0 has the same key at ranks 1479 and 1480 of 2048: keeping 1480 parts the two."""
    monkeypatch.setitem(_tiling.TILES, "select_index", _tiling.Tile(block, num_warps=2))
    keys = sorted((philox((n, 278, 0, 0), (0, 0))[0] >> 1, n) for n in range(2048))
    assert keys[1479][0] == keys[1480][0]
    kept = random_mask_index(torch.tensor([278], device=backend.device), 2048, 568.5 / 2048, seed=0)
    assert kept[0].tolist() == sorted(n for _, n in keys[:1480])


@pytest.mark.parametrize(
    ("grid", "ratio", "visible"),
    [  # the published truncation int(ratio · H'W')
        ((8, 14, 14), 0.9, 160),
        ((8, 16, 16), 0.9, 208),
        ((16, 14, 14), 0.9, 320),
        ((8, 14, 14), 0.75, 8 * (196 - 147)),
        ((8, 14, 14), 0.8, 8 * (196 - 156)),
        ((8, 14, 14), 0.95, 8 * (196 - 186)),
        ((8, 7, 7), 0.9, 8 * (49 - 44)),
        ((3, 5, 7), 0.0, 105),
        ((2, 1, 1), 0.99, 2),
    ],
)
def test_counts(grid, ratio, visible):
    index = tube_mask_index(torch.arange(2), grid, ratio, seed=3)
    assert index.shape == (2, visible)
    assert index.dtype == torch.int64


@pytest.mark.parametrize(("tokens", "ratio"), [(1568, 0.9), (2048, 0.9), (17, 0.5), (1, 0.0), (5, 0.99)])
def test_random_counts(tokens, ratio):
    kept = random_mask_index(torch.arange(3), tokens, ratio, seed=3)
    assert kept.shape == (3, tokens - int(ratio * tokens))


def test_indices_are_unique_ascending_and_in_range(backend):
    samples = torch.arange(4, device=backend.device)
    for index, tokens in (
        (tube_mask_index(samples, (2, 5, 7), 0.6, seed=1), 70),
        (random_mask_index(samples, 33, 0.6, seed=1), 33),
    ):
        assert (index[:, 1:] > index[:, :-1]).all()
        assert index.min() >= 0
        assert index.max() < tokens


def test_a_tube_is_the_same_in_every_frame(backend):
    index = tube_mask_index(torch.arange(3, device=backend.device), (4, 5, 3), 0.6, seed=1).view(3, 4, -1)
    frames = torch.arange(4, device=backend.device)[:, None]
    assert torch.equal(index - 15 * frames, index[:, :1].expand(-1, 4, -1))


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda sample, seed: tube_mask_index(sample, (2, 4, 5), 0.7, seed=seed), id="tube"),
        pytest.param(lambda sample, seed: random_mask_index(sample, 40, 0.7, seed=seed), id="random"),
    ],
)
class TestPureFunctionOfSeedAndSample:
    def test_neither_order_nor_company_matters(self, draw, backend):
        samples = torch.tensor([5, 3, 2**40, 0, 8], device=backend.device)
        together = draw(samples, 11)
        order = torch.tensor([3, 1, 4, 0, 2], device=backend.device)
        assert torch.equal(draw(samples[order], 11), together[order])
        for i in range(5):
            assert torch.equal(draw(samples[i : i + 1], 11)[0], together[i])
        assert torch.equal(torch.cat([draw(samples[::2], 11), draw(samples[1::2], 11)]), together[[0, 2, 4, 1, 3]])

    def test_the_global_generator_is_not_used(self, draw, backend):
        samples = torch.arange(3, device=backend.device)
        state = torch.get_rng_state()
        first = draw(samples, 11)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(draw(samples, 11), first)

    def test_seeds_and_samples_differ(self, draw, backend):
        samples = torch.arange(4, device=backend.device)
        assert not torch.equal(draw(samples, 1), draw(samples, 2))
        assert not torch.equal(draw(samples, 1), draw(samples, 1 + 2**32))
        assert len({tuple(row) for row in draw(samples, 1).tolist()}) == 4
        assert not torch.equal(draw(samples, 1), draw(samples + 2**32, 1))


def visibility(index, tokens):
    return torch.zeros(index.shape[0], tokens).scatter_(1, index, 1.0)


def test_every_position_is_visible_equally_often():
    """4000 draws: frequencies and co-occurrences within five standard deviations of those of a uniform choice."""
    draws, positions, kept = 4000, 196, 20
    seen = visibility(tube_mask_index(torch.arange(draws), (1, 14, 14), 0.9, seed=0), positions)
    share = kept / positions
    sigma = (share * (1 - share) / draws) ** 0.5
    assert (seen.mean(0) - share).abs().max() < 5 * sigma
    # The number of standard deviations must also spread as it should: too even is as suspicious as too uneven.
    spread = ((seen.mean(0) - share) / sigma).square().mean()
    assert 0.6 < spread < 1.4
    pair = kept * (kept - 1) / (positions * (positions - 1))
    for distance in (1, 14, 97):
        together = (seen * seen.roll(distance, 1)).mean(0)
        assert (together - pair).abs().max() < 5.5 * (pair * (1 - pair) / draws) ** 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"seed": 0}, {"seed": 1}, id="seeds"),
        pytest.param({"seed": 0}, {"seed": 0, "stream": 1}, id="streams"),
        pytest.param({"seed": 0}, {"seed": 0, "offset": 1}, id="neighbouring_samples"),
        pytest.param({"seed": 0}, {"seed": 2**32}, id="high_seeds"),
    ],
)
def test_two_sequences_are_independent(first, second):
    draws, positions, kept = 4000, 100, 20

    def seen(seed, stream=0, offset=0):
        samples = torch.arange(offset, offset + draws)
        return visibility(random_mask_index(samples, positions, 0.8, seed=seed, stream=stream), positions)

    common = (seen(**first) * seen(**second)).sum(1)  # hypergeometric
    share = kept / positions
    sigma = (kept * share * (1 - share) * (positions - kept) / (positions - 1) / draws) ** 0.5
    assert (common.mean() - kept * share).abs() < 5 * sigma


@pytest.mark.parametrize(
    ("batch", "tokens", "count"), [(2, 24, 5), (1, 1, 1), (3, 13, 13), (2, 1500, 40), (2, 4096, 1024), (1, 5001, 2500)]
)
def test_mask_to_index(batch, tokens, count, backend):
    index = make_index(batch, count, tokens, device=backend.device)
    mask = torch.zeros(batch, tokens, dtype=torch.bool, device=backend.device).scatter_(1, index, True)
    assert torch.equal(mask_to_index(mask, count), index)


def test_mask_to_index_of_a_strided_mask(backend):
    index = make_index(2, 5, 24, device=backend.device)
    mask = torch.zeros(2, 24, dtype=torch.bool, device=backend.device).scatter_(1, index, True)
    assert torch.equal(mask_to_index(mask.T.contiguous().T, 5), index)
    assert torch.equal(mask_to_index(mask[:1].expand(2, -1), 5), index[:1].expand(2, -1))


@pytest.mark.parametrize("kept", [0, 2], ids=["too_few", "too_many"])
def test_mask_to_index_refuses_unequal_counts(kept, backend):
    """ValueError on CPU; the kernels' launcher asserts on the device, which the interpreter raises at once."""
    if backend.name == "cuda":
        pytest.skip("a device-side assertion ends the process")
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, :1] = mask[1, :kept] = True
    error = RuntimeError if backend.runs_triton else ValueError
    with pytest.raises(error, match="mask must keep 1 tokens in every sample"):
        mask_to_index(mask, 1)


def test_mask_to_index_checks_its_counts_in_two_launches(backend, monkeypatch):
    """The kernel itself says whether a sample has its number of positions: no sum over the mask, no comparison."""
    if not backend.runs_triton:
        pytest.skip("the reference reads the counts")

    class Kernel:
        def __getitem__(self, grid):
            return lambda mask, out, complete, **options: complete.copy_(torch.ones(grid, dtype=torch.bool))

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    names = []
    kernels = importlib.import_module("videomae_kernels.masks.triton.index")
    mask, out = (torch.ones(2, 6, dtype=dtype, device=backend.device) for dtype in (torch.bool, torch.int64))
    with monkeypatch.context() as patch, Launches():  # undone before `backend` puts the interpreted kernels back
        patch.setattr(kernels, "_mask_to_index_kernel", Kernel())
        kernels.mask_to_index(mask, 6, out)
    assert names == ["new_empty", "ones", "copy_", "all", "_assert_async"]  # the second and third are the kernel's
