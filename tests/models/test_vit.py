"""Blocks against the formulas, blocks of which only the last rows are wanted, stochastic depth, the encoder."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_fast import VideoMAEConfig, get_config
from videomae_fast.models.encoder import Block, DropPath, Encoder, make_blocks


def make_block(mlp_ratio: float, drop_path: float) -> Block:
    """Three heads of four."""
    config = VideoMAEConfig(12, 1, 3, 12, 3, mlp_ratio=mlp_ratio)
    return Block(config, 12, 3, drop_path)


def randomise(module: nn.Module) -> nn.Module:
    """Every parameter away from its initial 0 or 1."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module.double()


def gradients(output: Tensor, module: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Gradients of Σ weight·output with respect to `x` and every parameter."""
    wanted = {"x": x, **dict(module.named_parameters())}
    return dict(zip(wanted, torch.autograd.grad((output * weight).sum(), list(wanted.values())), strict=True))


def assert_same_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name, gradient in first.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, second[name], rtol=1e-10, atol=1e-12, msg=name)


def written_out(block: Block, x: Tensor) -> Tensor:
    """The published block of three heads: keys without bias, scores over sqrt(head_dim), GELU with erf, no padding."""
    attn, mlp = block.attn, block.mlp
    batch, rows, dim = x.shape
    normed = F.layer_norm(x, (dim,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (normed @ attn.qkv.weight.T).view(batch, rows, 3, 3, dim // 3).permute(2, 0, 3, 1, 4)
    q, v = q + attn.q_bias.view(3, 1, -1), v + attn.v_bias.view(3, 1, -1)
    mixed = (q @ k.mT / (dim // 3) ** 0.5).softmax(-1) @ v
    x = x + attn.proj(mixed.transpose(1, 2).reshape(x.shape))
    hidden = mlp.fc1(F.layer_norm(x, (dim,), block.norm2.weight, block.norm2.bias, 1e-6))
    return x + mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


@pytest.mark.parametrize("hidden", [2234, 48, 1])
def test_block_written_out(hidden: int) -> None:
    """Where hidden sizes are padded, outside of the block nobody can tell."""
    block = randomise(make_block((hidden + 0.5) / 12, 0.0))
    assert block.mlp.fc1.weight.shape == (hidden, 12) and block.mlp.fc2.weight.shape == (12, hidden)
    x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    ours, expected = block(x), written_out(block, x)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    assert_same_gradients(gradients(ours, block, x, weight), gradients(expected, block, x, weight))


@pytest.mark.parametrize("hidden, computed", [(2234, 2240), (24, 24), (1, 8)])
def test_blocks_compute_a_multiple_of_eight_hidden_units(
    hidden: int, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    gelu = F.gelu

    def record(x: Tensor) -> Tensor:
        widths.append(x.shape[-1])
        return gelu(x)

    monkeypatch.setattr(F, "gelu", record)
    make_block((hidden + 0.5) / 12, 0.0)(torch.randn(1, 2, 12))
    assert widths == [computed]


def test_only_the_decoder_of_giant_is_padded() -> None:
    config = get_config("giant")
    assert int(config.decoder_dim * config.mlp_ratio) == 2234 and int(config.encoder_dim * config.mlp_ratio) == 6144


@pytest.mark.parametrize("last_rows", [1, 4, 9])
@pytest.mark.parametrize("mlp_ratio", [4.0, 3.3])
def test_block_on_its_last_rows_is_the_slice_of_the_whole(last_rows: int, mlp_ratio: float) -> None:
    block = randomise(make_block(mlp_ratio, 0.0))
    x = torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    whole, part = block(x)[:, -last_rows:], block(x, last_rows)
    assert part.shape == (2, last_rows, 12)
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(whole)
    assert_same_gradients(gradients(part, block, x, weight), gradients(whole, block, x, weight))


def test_last_rows_attend_to_all_rows() -> None:
    block = randomise(make_block(4.0, 0.0))
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    other = x.clone()
    other[:, 0] *= -1
    assert (block(x, 2) - block(other, 2)).abs().max() > 1e-3


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


def test_encoder_sees_visible_tokens_only() -> None:
    """Pixels of hidden tokens change nothing, not even when they are not numbers; order of tokens is kept."""
    config = VideoMAEConfig(24, 2, 2, 16, 2, num_frames=4, image_size=(16, 16), patch_size=8)
    encoder = randomise(Encoder(config)).float()
    visible = torch.tensor([[0, 5, 6]])
    clip = torch.randn(1, 3, 4, 16, 16)
    spoiled = torch.full_like(clip, float("nan"))
    for token in visible[0].tolist():
        t, h, w = token // 4, token // 2 % 2, token % 2
        part = (..., slice(2 * t, 2 * t + 2), slice(8 * h, 8 * h + 8), slice(8 * w, 8 * w + 8))
        spoiled[part] = clip[part]
    features = encoder(clip, visible)
    assert features.shape == (1, 3, 24)
    assert torch.equal(encoder(spoiled, visible), features)
    torch.testing.assert_close(encoder(clip, visible.flip(1)), features.flip(1), rtol=1e-5, atol=1e-6)


def test_encoder_accepts_int32_and_learnable_positions() -> None:
    config = VideoMAEConfig(24, 1, 2, 16, 2, num_frames=4, image_size=(16, 16), patch_size=8)
    encoder = Encoder(config)
    visible, clip = torch.tensor([[1, 2]]), torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(encoder(clip, visible.int()), encoder(clip, visible))
    learnable = copy.deepcopy(encoder)
    table = nn.Parameter(learnable.position.clone())
    del learnable.position
    learnable.position = table
    learnable(clip, visible).square().sum().backward()
    assert table.grad is not None and (table.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [1, 2]
