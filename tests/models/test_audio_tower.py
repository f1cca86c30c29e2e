"""BEATs against its formulas written out in float64, the names and sizes of its weights, and what it refuses."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.test_layers import randomise
from videomae_fast.models import AudioTower, BeatsConfig
from videomae_fast.models.audio_tower import distance_buckets

TINY = BeatsConfig(
    16, 2, 2, 24, patch_dim=12, patch_size=4, conv_kernel=6, conv_groups=4, buckets=8, max_distance=12,
    num_windows=23, num_mels=8,
)  # fmt: skip


def tower(config: BeatsConfig = TINY) -> AudioTower:
    found = randomise(AudioTower(config))
    assert isinstance(found, AudioTower)
    return found.eval()


def spectrograms(batch: int = 3, config: BeatsConfig = TINY) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, config.num_windows, config.num_mels, dtype=torch.float64)


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[name + ".weight"] + state[name + ".bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def bucket(offset: int, buckets: int, furthest: int) -> int:
    """The row for a key that is `offset` patches after its query."""
    half, distance = buckets // 2, abs(offset)
    exact, first = half // 2, half if offset > 0 else 0
    if distance < exact:
        return first + distance
    return first + min(exact + int(math.log(distance / exact) / math.log(furthest / exact) * (half - exact)), half - 1)


def formula(state: dict[str, Tensor], config: BeatsConfig, spectrogram: Tensor) -> Tensor:
    """The tokens of one spectrogram (T, M), patch by patch and head by head."""
    size, width = config.patch_size, config.dim // config.heads
    patches = [
        spectrogram[t : t + size, m : m + size].flatten() @ state["patch_embedding.weight"].flatten(1).mT
        for t in range(0, config.num_windows - size + 1, size)
        for m in range(0, config.num_mels - size + 1, size)
    ]
    x = norm(torch.stack(patches), state, "layer_norm")
    if "post_extract_proj.weight" in state:
        x = x @ state["post_extract_proj.weight"].mT + state["post_extract_proj.bias"]
    count = len(x)
    v, g = (state[f"encoder.pos_conv.0.weight_{part}"] for part in "vg")
    channels = config.dim // config.conv_groups
    rows = []
    for s in range(count):
        row = state["encoder.pos_conv.0.bias"].clone()
        for k in range(config.conv_kernel):
            source = s + k - config.conv_kernel // 2
            if 0 <= source < count:
                kernel = v[:, :, k] * g[0, 0, k] / v[:, :, k].square().sum().sqrt()
                for group in range(config.conv_groups):
                    part = slice(group * channels, (group + 1) * channels)
                    row[part] += kernel[part] @ x[source, part]
        rows.append(row)
    x = norm(x + gelu(torch.stack(rows)), state, "encoder.layer_norm")
    table = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    residual = (2 * config.depth) ** 0.25 if config.deep_norm else 1
    for number in range(config.depth):
        own = f"encoder.layers.{number}."

        def affine(y: Tensor, name: str, own: str = own) -> Tensor:
            return y @ state[f"{own}{name}.weight"].mT + state[f"{own}{name}.bias"]

        q, k, value = (affine(x, f"self_attn.{name}_proj") for name in "qkv")
        heads = []
        for head in range(config.heads):
            part = slice(head * width, (head + 1) * width)
            sums = affine(q[:, part], "self_attn.grep_linear").view(count, 2, 4).sum(2).sigmoid()
            gate = sums[:, 0] * (sums[:, 1] * state[f"{own}self_attn.grep_a"][0, head, 0, 0] - 1) + 2
            scores = q[:, part] @ k[:, part].mT / math.sqrt(width)
            for i in range(count):
                for j in range(count):
                    scores[i, j] += gate[i] * table[bucket(j - i, config.buckets, config.max_distance), head]
            heads.append(scores.softmax(1) @ value[:, part])
        x = norm(residual * x + affine(torch.cat(heads, 1), "self_attn.out_proj"), state, own + "self_attn_layer_norm")
        x = norm(residual * x + affine(gelu(affine(x, "fc1")), "fc2"), state, own + "final_layer_norm")
    return x


@pytest.mark.parametrize(
    "changes", [{}, {"deep_norm": False, "conv_kernel": 5, "patch_dim": 16}], ids=["deep", "plain"]
)
def test_it_is_the_formula(changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    found, sounds = tower(config), spectrograms()
    rows = found(sounds)
    state = {name: tensor.detach() for name, tensor in found.state_dict().items()}
    for row, sound in zip(rows.tokens, sounds, strict=True):
        torch.testing.assert_close(row.detach(), formula(state, config, sound))
    torch.testing.assert_close(rows.pooled, rows.tokens.mean(1))
    assert rows.tokens.shape == (3, config.num_tokens, 16)


def test_distances_share_rows_as_published() -> None:
    config = BeatsConfig()
    found = distance_buckets(config)
    assert found.shape == (248, 248)
    assert found.tolist()[0] == [bucket(j, 320, 800) for j in range(248)]
    assert found[:, 247].tolist() == [bucket(247 - i, 320, 800) for i in range(248)]
    assert found[247].tolist() == [bucket(j - 247, 320, 800) for j in range(248)]
    assert [int(found[0, j]) for j in (0, 1, 79, 80, 81, 247)] == [0, 161, 239, 240, 240, 279]


def test_names_and_sizes_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        state = {name: tuple(tensor.shape) for name, tensor in AudioTower(BeatsConfig()).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (512, 1, 16, 16),
        "layer_norm.weight": (512,),
        "layer_norm.bias": (512,),
        "post_extract_proj.weight": (768, 512),
        "post_extract_proj.bias": (768,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (768, 48, 128),
        "encoder.pos_conv.0.bias": (768,),
        "encoder.layer_norm.weight": (768,),
        "encoder.layer_norm.bias": (768,),
        "encoder.layers.0.self_attn.relative_attention_bias.weight": (320, 12),
    }
    for number in range(12):
        own = f"encoder.layers.{number}."
        expected |= {f"{own}self_attn.grep_linear.weight": (8, 64), f"{own}self_attn.grep_linear.bias": (8,)}
        expected |= {f"{own}self_attn.grep_a": (1, 12, 1, 1)}
        for name in ("q", "k", "v", "out"):
            expected |= {f"{own}self_attn.{name}_proj.weight": (768, 768), f"{own}self_attn.{name}_proj.bias": (768,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            expected |= {f"{own}{name}.weight": (768,), f"{own}{name}.bias": (768,)}
        expected |= {f"{own}fc1.weight": (3072, 768), f"{own}fc1.bias": (3072,)}
        expected |= {f"{own}fc2.weight": (768, 3072), f"{own}fc2.bias": (768,)}
    assert state == expected
    assert round(sum(map(math.prod, state.values())) / 1e6) == 90  # as the paper counts


def test_a_frozen_tower_keeps_no_activations() -> None:
    found = tower().requires_grad_(False)
    assert found(spectrograms()).tokens.grad_fn is None


def test_all_parameters_are_trained() -> None:
    found = tower()
    found(spectrograms()).pooled.square().sum().backward()
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


def test_it_runs_under_autocast() -> None:
    found, sounds = tower().float(), spectrograms().float()
    expected = found(sounds).pooled
    with torch.autocast("cpu", torch.bfloat16):
        half = found(sounds).pooled
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.1)


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: tower()(spectrograms()[:, :20]), "spectrogram must be (B, 23, 8), got (3, 20, 8)"),
    (lambda: tower()(spectrograms()[0]), "spectrogram must be (B, 23, 8), got (23, 8)"),
    (lambda: tower()(torch.zeros(1, 23, 8, dtype=torch.int16)), "spectrogram must be floating, got torch.int16"),
    (lambda: replace(TINY, heads=3), "dim 16 is not divisible by heads 3"),
    (lambda: replace(TINY, conv_groups=5), "dim 16 is not divisible by conv_groups 5"),
    (lambda: replace(TINY, buckets=10), "buckets must be a multiple of 4"),
    (lambda: replace(TINY, max_distance=2), "max_distance more than a quarter of it, got 8 and 2"),
    (lambda: replace(TINY, num_mels=3), "patch_size 4 is larger than a spectrogram of 23x3"),
    (lambda: replace(TINY, depth=0), "depth must be a positive integer, got 0"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()
