"""The published sizes, their names and initialisation, and configurations that cannot be."""

import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.published import PublishedVideoMAE, sinusoid_table
from videomae_fast import CONFIGS, VideoMAEConfig, VideoMAEForPretraining, get_config
from videomae_fast.models import positions

# parameters in millions: encoder, decoder, total; tensors of a checkpoint; encoder and decoder hidden sizes
SIZES = {
    "small": (21.88, 2.08, 24.03, 218, 1536, 768),
    "base": (86.23, 7.69, 94.21, 218, 3072, 1536),
    "large": (303.86, 13.40, 317.78, 374, 4096, 2048),
    "huge": (631.61, 13.40, 645.66, 478, 5120, 2048),
    "giant": (1011.6, 13.97, 1026.3, 582, 6144, 2234),
}
TINY = VideoMAEConfig(48, 3, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_all_sizes_are_there() -> None:
    assert set(CONFIGS) == set(SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_parameters_and_names(size: str) -> None:
    *millions, tensors, encoder_hidden, decoder_hidden = SIZES[size]
    config = get_config(size)
    with torch.device("meta"):
        model = VideoMAEForPretraining(config)
        published = PublishedVideoMAE.from_config(config)
    assert shapes(model) == shapes(published) and len(model.state_dict()) == tensors
    for part, expected in zip((model.encoder, model.decoder, model), millions, strict=True):
        count = sum(parameter.numel() for parameter in part.parameters()) / 1e6
        assert count == pytest.approx(expected, abs=0.05 if expected > 1000 else 0.0051)
    assert not [name for name, _ in model.named_buffers() if name in model.state_dict()]
    state = shapes(model)
    assert state["encoder.blocks.0.mlp.fc1.weight"][0] == encoder_hidden
    assert state["decoder.blocks.3.mlp.fc2.weight"][1] == decoder_hidden


def assert_uniform(weight: Tensor, bound: float, name: str) -> None:
    """Within ±bound, nearly reaching it, with the standard deviation of a uniform distribution."""
    assert weight.abs().max() <= bound * (1 + 1e-6), name
    assert weight.abs().max() > bound * (1 - 20 / weight.numel()), name
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(weight.numel())), name


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = VideoMAEForPretraining(replace(TINY, decoder_dim=48)).requires_grad_(False)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert len(linears) == 1 + 1 + 4 * (3 + 2)
    kept = linears.pop("encoder_to_decoder")  # outside of what the published code initialises
    for name, linear in linears.items():
        fan_out, fan_in = linear.weight.shape
        assert_uniform(linear.weight, math.sqrt(6 / (fan_in + fan_out)), name)
        assert linear.bias is None or not linear.bias.any(), name
    assert_uniform(kept.weight, 1 / math.sqrt(48), "encoder_to_decoder")
    conv = model.encoder.patch_embed.proj
    fan_in = 3 * 2 * 8 * 8
    assert_uniform(conv.weight, 1 / math.sqrt(fan_in), "patch_embed.proj")
    assert conv.bias is not None and 0 < conv.bias.abs().max() <= 1 / math.sqrt(fan_in)
    for name, parameter in model.named_parameters():
        if name.endswith(("q_bias", "v_bias")) or "norm" in name:
            assert (parameter == float("norm" in name and name.endswith("weight"))).all(), name
    assert all(module.eps == 1e-6 for module in model.modules() if isinstance(module, nn.LayerNorm))


def test_mask_token_is_a_normal_cut_at_one_deviation() -> None:
    torch.manual_seed(0)
    token = VideoMAEForPretraining(replace(TINY, decoder_dim=2048, decoder_depth=1, mlp_ratio=0.05)).mask_token.detach()
    assert token.abs().max() <= 0.02 and token.abs().max() > 0.0199
    # a normal of std 0.02 cut there has std 0.0108; a uniform distribution would have 0.0115
    assert token.std() == pytest.approx(0.02 * 0.5396, rel=0.04)


@pytest.mark.parametrize("tokens, width", [(1568, 384), (7, 5), (40, 512)])
def test_position_table(tokens: int, width: int) -> None:
    table = positions.sinusoid_table(tokens, width)
    torch.testing.assert_close(table, sinusoid_table(tokens, width)[0], rtol=0, atol=6e-8)


def test_get_config() -> None:
    config = get_config("base", num_frames=32, image_size=(112, 160))
    assert config.grid == (16, 7, 10) and config.num_tokens == 1120 and config.patch_dim == 1536
    assert config.patch == (2, 16, 16) and config.encoder_dim == 768
    assert get_config("giant").grid == (8, 16, 16) and get_config("giant").patch_dim == 1176
    assert {f.name for f in fields(CONFIGS["base"]) if getattr(config, f.name) != getattr(CONFIGS["base"], f.name)} == {
        "num_frames",
        "image_size",
    }
    with pytest.raises(ValueError, match=r"size must be one of \('small', .*'giant'\), got 'tiny'"):
        get_config("tiny")
    with pytest.raises(TypeError, match="num_frame"):
        get_config("base", num_frame=8)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(encoder_heads=5), "encoder_dim 48 is not divisible by encoder_heads 5"),
        (dict(decoder_dim=25), "decoder_dim 25 is not divisible by decoder_heads 2"),
        (dict(num_frames=7), "num_frames 7 and image_size (32, 32) must be multiples of tubelet_size 2"),
        (dict(num_frames=0), "num_frames must be positive, got 0"),
        (dict(image_size=(32, 36)), "image_size (32, 36) must be multiples of tubelet_size 2 and patch_size 8"),
        (dict(image_size=(0, 32)), "image_size (0, 32)"),
        (dict(decoder_context="paper"), "decoder_context must be one of ('published', 'disjoint'), got 'paper'"),
        (dict(recompute="sometimes"), "recompute must be one of ('auto', 'always', 'never'), got 'sometimes'"),
        (dict(pixel_mean=(0.5,)), "pixel_mean and pixel_std need 3 values"),
        (dict(in_channels=1), "pixel_mean and pixel_std need 1 values"),
    ],
    ids=str,
)
def test_config_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    "name, value", [("drop_path", 1.0), ("drop_path", -0.1), ("decoder_depth", 0), ("encoder_heads", 0)]
)
def test_config_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(TINY, **{name: value})


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("encoder_depth", 2.5, TypeError),
        ("encoder_depth", float("nan"), TypeError),
        ("num_frames", "16", TypeError),
        ("decoder_heads", True, TypeError),
        ("mlp_ratio", None, TypeError),
        ("patch_size", 0, ValueError),
        ("tubelet_size", -2, ValueError),
        ("mlp_ratio", float("nan"), ValueError),
        ("norm_eps", float("inf"), ValueError),
        ("drop_path", float("nan"), ValueError),
    ],
)
def test_a_number_that_is_none_is_named(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{field} must be"):
        get_config("small", **{field: value})
