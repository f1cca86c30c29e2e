"""Stochastic depth."""

import pytest
import torch

from tests.models.test_layers import make_block, randomise
from videomae_fast import VideoMAEConfig
from videomae_fast.models.encoder import make_blocks
from videomae_fast.models.stochastic_depth import DropPath


@pytest.mark.parametrize("rate", [0.25, 0.6])
def test_drop_path_drops_whole_samples_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = DropPath(rate).train()(x)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y, torch.where(kept, 1 / (1 - rate), 0.0)[:, None, None].expand_as(y))
    assert kept.float().mean() == pytest.approx(1 - rate, abs=0.035)  # more than four standard deviations


def test_drop_path_does_nothing_in_evaluation_or_at_rate_0() -> None:
    x = torch.randn(64, 2, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0).train()(x), x)


def test_drop_path_rates_rise_linearly() -> None:
    config = VideoMAEConfig(16, 4, 2, 16, 2, drop_path=0.3)
    for depth in (4, 7):
        rates = [block.drop_path.rate for block in make_blocks(config, 16, depth, 2)]
        assert rates == pytest.approx([0.3 * i / (depth - 1) for i in range(depth)])
    assert [block.drop_path.rate for block in make_blocks(config, 16, 1, 2)] == [0.0]


def test_dropped_branches_leave_the_residual_alone() -> None:
    block = randomise(make_block(4.0, 0.5)).train()
    x = torch.randn(200, 4, 12, dtype=torch.float64)
    for last_rows in (None, 2):
        y = block(x, last_rows)
        untouched = (y == x[:, -y.shape[1] :]).flatten(1).all(1).double().mean()
        assert 0.1 < untouched < 0.4  # both branches: 0.25
    assert not (block.eval()(x) == x).flatten(1).all(1).any()
