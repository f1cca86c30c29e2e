import importlib
import itertools
import math
import struct
from fractions import Fraction

import pytest
import torch

from tests.kernels import truth
from tests.kernels.truth import MASK32, philox
from videomae_kernels import _tiling, check_indices, philox_keys, random_mask_index, weighted_mask_index
from videomae_kernels.masks.weighted import exponentials

COEFFICIENTS = (1782572492, 282869828, 61369959, 15132330, 3999235, 1086449, 307070, 112172, 34063)


def exponential(key):
    """-log2((2 · key + 1) / 2**32) in units of 2**-47, on Python's integers."""
    number = 2 * key + 1
    whole = 32 - number.bit_length()
    y = 2**32 - (number << whole)
    ratio = 0
    for coefficient in reversed(COEFFICIENTS):
        ratio = coefficient + (ratio * (y - 2**30) >> 30)
    return (whole << 47) + (ratio * y >> 15)


def order(drawn, weight):
    """The quotient to 24 bits: the bits of its float64 without the last 29."""
    return struct.unpack("<q", struct.pack("<d", drawn / weight))[0] >> 29 if weight else math.inf


def kept_tokens(weights, keep, sample, seed, stream=0):
    """The definition in the docstrings of masks/weighted.py, of one sample's lists of weights."""
    key, number = (seed & MASK32, seed >> 32), (sample & MASK32, sample >> 32 & MASK32)
    kept = []
    for group, row in enumerate(weights):
        tokens = range(group * len(row), (group + 1) * len(row))
        keys = [philox((n, *number, stream), key)[0] >> 1 for n in tokens]
        orders = sorted((order(exponential(k), w), n) for k, w, n in zip(keys, row, tokens, strict=True))
        kept += sorted(n for _, n in orders[:keep])
    return kept


def awkward(groups, positions):
    """Weights over all of float32, a fifth of them zero, some of them the smallest and the largest there are."""
    weights = torch.randn(2, groups, positions).mul(20).exp2()
    weights[torch.rand(weights.shape) < 0.2] = 0
    weights[0, :, :3] = torch.tensor([2.0**-149, torch.finfo(torch.float32).max, -0.0])
    return weights


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_the_kernel_agrees_with_the_reference(dtype, backend, monkeypatch):
    weights = awkward(2, 37) if dtype == torch.float32 else torch.rand(2, 2, 37).to(dtype)
    sample = torch.tensor([5, 2**40 + 3])
    found = weighted_mask_index(weights.to(backend.device), 9, sample.to(backend.device), seed=2**40, stream=2**30)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    expected = weighted_mask_index(weights, 9, sample, seed=2**40, stream=2**30)
    assert found.device.type == backend.device.type and found.dtype == torch.int64
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize(("sample", "seed"), [(0, 0), (2**32 + 5, 2**63 - 1)])
def test_masks_follow_their_definition(sample, seed, backend):
    """Pins every mask of every release: a resumed run must draw the same ones."""
    weights = awkward(2, 23)
    found = weighted_mask_index(
        weights.to(backend.device), 6, torch.tensor([sample, 3], device=backend.device), seed=seed, stream=9
    )
    expected = [kept_tokens(weights[b].tolist(), 6, number, seed, 9) for b, number in enumerate((sample, 3))]
    assert found.tolist() == expected


@pytest.mark.parametrize(("positions", "keep", "block"), [(40, 20, 16), (64, 63, 32), (1500, 300, 1024)])
def test_tokens_of_several_blocks(positions, keep, block, backend, monkeypatch):
    monkeypatch.setitem(_tiling.TILES, "weighted_index", _tiling.Tile(block, num_warps=2))
    weights, sample = torch.rand(1, 2, positions), torch.tensor([7])
    found = weighted_mask_index(weights.to(backend.device), keep, sample.to(backend.device), seed=3)
    assert torch.equal(found.cpu(), truth.weighted_tokens(weights, keep, sample, 3))


def test_the_exponential_numbers_are_logarithms():
    """Of random keys and of those at both ends, against Fractions for the integers and math.log2 for the values."""
    keys = torch.randint(0, 2**31, (2000,)).tolist()
    keys += [*range(40), *(2**31 - 1 - n for n in range(40)), *(2**n + d for n in range(2, 31) for d in (-1, 0, 1))]
    found = exponentials(torch.tensor(keys)).tolist()
    assert found == [exponential(key) for key in keys]
    for key, drawn in zip(keys, found, strict=True):
        u = Fraction(2 * key + 1, 2**32)
        exact = -math.log2(u) if u < 0.5 else -math.log1p(-float(1 - u)) / math.log(2)
        assert 0 < drawn <= 2**52
        assert abs(drawn - exact * 2**47) <= exact * 2**47 * 2**-25 + 1


def inclusion_of_subsets(weights, keep):
    """{subset: probability} of draws without replacement, by enumeration of all orders (Plackett-Luce)."""
    chances = dict.fromkeys(itertools.combinations(range(len(weights)), keep), 0.0)
    for drawn in itertools.permutations(range(len(weights)), keep):
        chance, left = 1.0, sum(weights)
        for n in drawn:
            chance *= weights[n] / left
            left -= weights[n]
        chances[tuple(sorted(drawn))] += chance
    return chances


def check_law(index, weights, keep):
    """Every subset within five standard deviations of its probability, and deviations spread as they should."""
    numbers = (2 ** index.sort(1).values).sum(1)
    scores = []
    for subset, chance in inclusion_of_subsets(weights, keep).items():
        share = float((numbers == sum(2**n for n in subset)).double().mean())
        scores.append((share - chance) / math.sqrt(chance * (1 - chance) / len(index)))
    assert max(map(abs, scores)) < 5
    assert 0.3 < sum(score**2 for score in scores) / len(scores) < 2.2


WEIGHTS = [[0.3, 0.1, 0.25, 0.05, 0.2, 0.1], [8.0, 1.0, 1.0, 3.0, 0.5, 0.125], [1.0] * 6]


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("weights", WEIGHTS, ids=["probabilities", "uneven", "equal"])
def test_the_law_is_that_of_draws_without_replacement(weights, keep):
    """20,000 draws against exact probabilities, as draws of torch.multinomial also are."""
    draws, of_all = 20_000, torch.tensor(weights).expand(20_000, 1, -1)
    check_law(weighted_mask_index(of_all, keep, torch.arange(draws), seed=1), weights, keep)
    check_law(torch.multinomial(of_all[:, 0], keep), weights, keep)


def test_small_weights_have_their_share():
    """One token of 1/1000 of the weight: 20,000 draws see it 20 times on average."""
    weights = torch.ones(20_000, 1, 50)
    weights[..., 12] = 49 / 999
    seen = int((weighted_mask_index(weights, 1, torch.arange(20_000), seed=0) == 12).sum())
    assert abs(seen - 20) < 5 * 20**0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"seed": 0}, {"seed": 1}, id="seeds"),
        pytest.param({"seed": 0}, {"seed": 0, "stream": 1}, id="streams"),
        pytest.param({"seed": 0}, {"seed": 0, "offset": 1}, id="neighbouring_samples"),
        pytest.param({"seed": 0}, {"seed": 0, "group": 1}, id="groups"),
    ],
)
def test_two_sequences_are_independent(first, second):
    draws, positions, keep = 2000, 60, 12
    weights = torch.linspace(0.5, 2, positions).expand(draws, 2, -1)

    def seen(seed, stream=0, offset=0, group=0):
        sample = torch.arange(offset, offset + draws)
        index = weighted_mask_index(weights, keep, sample, seed=seed, stream=stream)
        index = index.view(draws, 2, keep)[:, group] - group * positions
        return torch.zeros(draws, positions).scatter_(1, index, 1.0)

    one, other = seen(**first), seen(**second)
    common, expected = (one * other).sum(1), float((one.mean(0) * other.mean(0)).sum())
    assert abs(float(common.mean()) - expected) < 5 * float(common.std()) / draws**0.5


class TestPureFunctionOfSeedSampleAndWeights:
    def test_neither_order_nor_company_matters(self, backend):
        sample = torch.tensor([5, 2**40], device=backend.device)
        weights = torch.rand(2, 2, 37, device=backend.device)
        together = weighted_mask_index(weights, 9, sample, seed=11)
        assert torch.equal(weighted_mask_index(weights.flip(0), 9, sample.flip(0), seed=11), together.flip(0))
        assert torch.equal(weighted_mask_index(weights[:1], 9, sample[:1], seed=11), together[:1])

    def test_the_global_generator_is_not_used(self):
        weights, sample = torch.rand(3, 1, 37), torch.arange(3)
        state = torch.get_rng_state()
        weighted_mask_index(weights, 9, sample, seed=11)
        assert torch.equal(torch.get_rng_state(), state)

    def test_only_ratios_of_weights_count(self):
        weights, sample = torch.rand(3, 2, 37), torch.arange(3)
        expected = weighted_mask_index(weights, 9, sample, seed=11)
        for scale in (2.0**-100, 2.0**100):
            assert torch.equal(weighted_mask_index(weights * scale, 9, sample, seed=11), expected)

    def test_equal_weights_draw_as_random_masks_do(self):
        """The smallest -log U are those of the largest keys: the tokens that a random mask of the others hides."""
        equal, sample = torch.ones(()).expand(3, 1, 40), torch.arange(3)
        index = weighted_mask_index(equal, 10, sample, seed=11, stream=4)
        others = random_mask_index(sample, 40, 0.25, seed=11, stream=4)
        assert torch.equal(torch.cat([index, others], 1).sort(1).values, torch.arange(40).expand(3, -1))


def test_weights_of_any_strides(backend):
    """Attention without the column of a class token, transposed, and of repeated groups."""
    attention = torch.rand(2, 2, 38)
    cases = (attention.mT.contiguous().mT[..., 1:], attention[:, :1, 1:].expand(-1, 2, -1))
    sample = torch.arange(2)
    for weights in cases:
        found = weighted_mask_index(weights.to(backend.device), 9, sample.to(backend.device), seed=3)
        assert torch.equal(found.cpu(), truth.weighted_tokens(weights, 9, sample, 3))


@pytest.mark.parametrize(("groups", "positions"), [(1, 1), (3, 1), (2, 5)])
def test_all_tokens_kept(groups, positions, backend):
    weights = torch.rand(2, groups, positions, device=backend.device) + 0.1
    index = weighted_mask_index(weights, positions, torch.arange(2, device=backend.device), seed=0)
    assert torch.equal(index.cpu(), torch.arange(groups * positions).expand(2, -1))


def test_tokens_of_no_weight_are_not_drawn(backend):
    draws = 4 if backend.runs_triton else 200
    weights = torch.zeros(draws, 2, 10, device=backend.device)
    weights[:, 0, 2:7] = 1e-30
    weights[:, 1, [0, 4, 5, 9]] = torch.tensor([1e-38, 1e38, 1.0, 1e-3], device=backend.device)
    index = weighted_mask_index(weights, 4, torch.arange(draws, device=backend.device), seed=0).view(draws, 2, 4).cpu()
    assert index[:, 0].unique().tolist() == [2, 3, 4, 5, 6]
    assert torch.equal(index[:, 1], torch.tensor([10, 14, 15, 19]).expand(draws, -1))


def test_of_equal_quotients_the_lower_position_is_kept(backend):
    """Weights in proportion to the numbers drawn, so that most quotients agree to 24 bits."""
    drawn = exponentials(philox_keys(torch.tensor([4]), 5, 0, 111)).double()
    weights = (drawn / 2**47 / (1 + 2**-24)).float()
    orders = [order(*pair) for pair in zip(drawn[0].tolist(), weights[0].tolist(), strict=True)]
    ranked = sorted(range(111), key=lambda n: (orders[n], n))
    assert orders[ranked[59]] == orders[ranked[60]]
    sample = torch.tensor([4], device=backend.device)
    index = weighted_mask_index(weights[:, None].to(backend.device), 60, sample, seed=5)
    assert index[0].tolist() == sorted(ranked[:60])


def test_unchecked_weights_on_a_device(backend):
    """Past the checks: what has no weight fills up from the lowest position; NaN and negative weights are zeros."""
    if not backend.runs_triton:
        pytest.skip("the reference checks its weights")
    launch = importlib.import_module("videomae_kernels.masks.triton.weighted").weighted_index
    weights = torch.zeros(1, 3, 37)
    weights[0, 0, [20, 30]] = 1
    weights[0, 1] = torch.nan
    weights[0, 1, 30] = torch.inf
    weights[0, 2] = -1
    weights[0, 2, 5:] = 1
    sample, out = torch.tensor([4], device=backend.device), torch.full((1, 27), -1, device=backend.device)
    launch(weights.to(backend.device), sample, 0, 0, 9, out)
    zeros = list(range(9))
    assert out[0, :9].tolist() == [*zeros[:7], 20, 30]
    assert (out[0, 9:18] - 37).tolist() == [*zeros[:8], 30]
    assert (out[0, 18:] - 74).min() >= 5


def test_a_gpu_checks_weights_on_demand():
    """Without one the CPU checks the same."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights, sample = torch.full((1, 1, 4), -1.0, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    with check_indices(), pytest.raises(ValueError, match="weights must be finite and at least 0"):
        weighted_mask_index(weights, 2, sample, seed=0)


def test_no_gradient_and_fake_weights():
    weights, sample = torch.rand(2, 3, 37, requires_grad=True), torch.arange(2)
    assert not weighted_mask_index(weights, 9, sample, seed=0).requires_grad
    assert weighted_mask_index(weights.to("meta"), 9, sample.to("meta"), seed=0).shape == (2, 27)
    assert weighted_mask_index(weights[:0], 9, sample[:0], seed=0).shape == (0, 27)
