"""Connectors and gated cross-attention: against transformers and formulas, masks, published names, errors."""

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from tests.models.test_layers import randomise
from videomae_fast.models.connectors import (
    CONNECTORS,
    Connector,
    MeanPoolMLP,
    PerceiverResampler,
    QFormer,
    temporal_mean,
)
from videomae_fast.models.gated_attention import CrossAttentionLayers, GatedCrossAttention

DIM, OUT = 12, 10
QFORMER: dict[str, Any] = {"queries": 3, "extra_queries": 2, "dim": 16, "depth": 3, "heads": 2, "hidden": 24}
RESAMPLER: dict[str, Any] = {"latents": 4, "depth": 2, "heads": 3, "head_dim": 5}


def qformer() -> QFormer:
    found = randomise(QFormer(DIM, OUT, **QFORMER)).eval()
    assert isinstance(found, QFormer)
    return found


def resampler(out_dim: int | None = OUT) -> PerceiverResampler:
    found = randomise(PerceiverResampler(DIM, out_dim, **RESAMPLER)).eval()
    assert isinstance(found, PerceiverResampler)
    return found


def mlp() -> MeanPoolMLP:
    found = randomise(MeanPoolMLP(DIM, OUT, rows=3, hidden=7)).eval()
    assert isinstance(found, MeanPoolMLP)
    return found


ALL = {"qformer": qformer, "resampler": resampler, "mlp": mlp}


def tokens(batch: int = 2, count: int = 6) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, count, DIM, dtype=torch.float64)


def test_the_qformer_is_that_of_transformers() -> None:
    """`Blip2QFormerModel`, with the names changed that differ."""
    found = qformer()
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=DIM
    )
    truth = Blip2QFormerModel(config).double().eval()
    state = {}
    for name, tensor in found.qformer.state_dict().items():
        name = name.removeprefix("bert.").replace("embeddings.LayerNorm", "layernorm").replace(".self.", ".attention.")
        state[name] = tensor
    truth.load_state_dict(state)
    queries = torch.cat([found.query_tokens, found.extra_query_tokens], 1).expand(2, -1, -1)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for given in (None, mask):
        expected = truth(
            query_embeds=queries,
            encoder_hidden_states=found.vision_layernorm(tokens()),
            encoder_attention_mask=given,
        ).last_hidden_state
        torch.testing.assert_close(found(tokens(), given), found.proj(expected))


def test_the_qformer_starts_as_published() -> None:
    torch.manual_seed(0)
    found = QFormer(DIM, OUT, **{**QFORMER, "dim": 512, "heads": 8})
    assert not found.extra_query_tokens.any()
    assert abs(float(found.query_tokens.detach().std()) - 0.02) < 0.002
    weight = found.qformer["bert"]["encoder"]["layer"][0].attention.self.query.weight
    assert abs(float(weight.detach().std()) - 0.02) < 0.001
    assert QFormer(DIM, OUT, **{**QFORMER, "extra_queries": 0}).num_rows == 3


def test_names_of_the_qformer_are_published() -> None:
    """VideoChat2's stage 2 and 3, without the language model's."""
    part = {"query", "key", "value"}
    own = {f"attention.self.{p}" for p in part} | {"attention.output.dense", "attention.output.LayerNorm"}
    own |= {"intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"}
    cross = {n.replace("attention.", "crossattention.", 1) for n in own if n.startswith("attention.")}
    modules = {f"qformer.bert.encoder.layer.{i}.{n}" for i in range(3) for n in (own if i == 1 else own | cross)}
    modules |= {"qformer.bert.embeddings.LayerNorm", "vision_layernorm", "proj"}
    expected = {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")} | {"query_tokens", "extra_query_tokens"}
    state = qformer().state_dict()
    assert state.keys() == expected
    assert state["qformer.bert.encoder.layer.0.crossattention.self.key.weight"].shape == (16, DIM)


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def flamingo_attention(state: dict[str, Tensor], name: str, x: Tensor, source: Tensor, heads: int) -> Tensor:
    """Written out with the weights."""
    k, v = (source @ state[f"{name}to_kv.weight"].T).chunk(2, -1)
    q, k, v = (heads_of(each, heads) for each in (x @ state[f"{name}to_q.weight"].T, k, v))
    mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return mixed.transpose(-2, -3).flatten(-2) @ state[f"{name}to_out.weight"].T


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def feed_forward(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.gelu(norm(state, f"{name}.0", x) @ state[f"{name}.1.weight"].T) @ state[f"{name}.3.weight"].T


def test_the_resampler_is_the_formula() -> None:
    found = resampler()
    state, x = found.state_dict(), found.latents
    for i in range(2):
        asking = norm(state, f"layers.{i}.0.norm_latents", x)
        read = norm(state, f"layers.{i}.0.norm_media", tokens()[0])
        x = x + flamingo_attention(state, f"layers.{i}.0.", asking, torch.cat([read, asking]), 3)
        x = x + feed_forward(state, f"layers.{i}.1", x)
    expected = found.proj(norm(state, "norm", x))
    torch.testing.assert_close(found(tokens())[0], expected)
    assert resampler(None)(tokens()).shape == (2, 4, DIM) and resampler(None).out_dim == DIM


def test_the_mlp_is_the_formula() -> None:
    found = mlp()
    state = found.state_dict()
    hidden = F.gelu(found.fc1(norm(state, "norm", tokens().mean(1))))
    torch.testing.assert_close(found(tokens()), found.fc2(hidden).view(2, 3, OUT))


@pytest.mark.parametrize("name", ALL)
def test_masked_tokens_are_not_read(name: str) -> None:
    found = ALL[name]()
    mask = torch.tensor([[True, False, True, True, False, True]] * 2)
    expected = found(tokens()[:, mask[0]])
    torch.testing.assert_close(found(tokens().masked_fill(~mask[..., None], 1e3), mask), expected)
    assert not torch.allclose(found(tokens()), expected)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    found = ALL[name]()
    x = tokens().requires_grad_()
    rows = found(x)
    assert rows.shape == (2, found.num_rows, found.out_dim)
    (rows * torch.randn_like(rows)).sum().backward()
    for key, parameter in found.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key
    assert x.grad is not None and x.grad.any()


@pytest.mark.parametrize("name", ALL)
def test_settings_make_another_of_the_same_sizes(name: str) -> None:
    found: Connector = ALL[name]()
    other = CONNECTORS[type(found).__name__](**found.settings)
    shapes = [{key: tensor.shape for key, tensor in each.state_dict().items()} for each in (found, other)]
    assert shapes[0] == shapes[1]


def test_the_mean_over_time_is_that_of_visible_tokens() -> None:
    grid = (3, 2, 2)
    x = torch.arange(24.0).view(2, 12, 1)
    rows, mask = temporal_mean(x, None, grid)
    assert mask is None
    torch.testing.assert_close(rows[..., 0], x.view(2, 3, 4).mean(1))
    visible = torch.tensor([[0, 4, 1, 11], [2, 3, 6, 10]])  # (t, place): 00 10 01 23 and 02 03 12 22
    kept = x.gather(1, visible[..., None])
    rows, mask = temporal_mean(kept, visible, grid)
    assert mask is not None and mask.tolist() == [[True, True, False, True], [False, False, True, True]]
    assert rows[..., 0].tolist() == [[2, 1, 0, 11], [0, 0, (14 + 18 + 22) / 3, 15]]


class Layer(nn.Module):
    def forward(self, hidden_states: Tensor, factor: float = 2.0) -> Tensor:
        return factor * hidden_states


def language_model() -> tuple[nn.ModuleList, CrossAttentionLayers]:
    layers = nn.ModuleList([Layer(), Layer()])
    return layers, CrossAttentionLayers(layers, 6, DIM, heads=3, head_dim=5)


def test_gates_are_shut_at_first() -> None:
    torch.manual_seed(0)
    x, block = torch.randn(2, 4, 6), GatedCrossAttention(6, DIM, 3, 5)
    assert torch.equal(block(x, tokens().float()), x)
    assert block(x.bfloat16(), tokens()).dtype == torch.bfloat16
    names = {"attn_gate", "ff_gate", "ff.1.weight", "ff.3.weight"}
    names |= {f"{n}.{k}" for n in ("attn.norm", "ff.0") for k in ("weight", "bias")}
    assert block.state_dict().keys() == names | {f"attn.to_{n}.weight" for n in ("q", "kv", "out")}


def test_gated_cross_attention_is_the_formula() -> None:
    block = randomise(GatedCrossAttention(6, DIM, 3, 5))
    x, state = torch.randn(4, 6, dtype=torch.float64), block.state_dict()
    asking = norm(state, "attn.norm", x)
    expected = x + state["attn_gate"].tanh() * flamingo_attention(state, "attn.", asking, tokens()[0], 3)
    expected = expected + state["ff_gate"].tanh() * feed_forward(state, "ff", expected)
    torch.testing.assert_close(block(x[None], tokens()[:1])[0], expected)


def test_layers_read_the_source_within_the_block_only() -> None:
    layers, blocks = language_model()
    randomise(blocks)
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = x
    for block in blocks:
        expected = 2 * block(expected, tokens())
    with blocks.reading(tokens()):
        first = layers[1](layers[0](x))
        named = layers[1](hidden_states=layers[0](hidden_states=x, factor=2.0))
        beams = layers[1](layers[0](x.repeat_interleave(3, 0)))
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(named, expected)
    torch.testing.assert_close(beams, expected.repeat_interleave(3, 0))
    assert torch.equal(layers[1](layers[0](x)), 4 * x)


def test_a_copy_has_blocks_of_its_own() -> None:
    layers, blocks = language_model()
    other, copied = copy.deepcopy((layers, blocks))
    x = torch.randn(2, 4, 6)
    with copied.reading(tokens().float()), torch.no_grad():
        copied[0].attn_gate.fill_(1.0)
        assert not torch.equal(other[0](x), 2 * x)
        assert torch.equal(layers[0](x), 2 * x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp()(torch.ones(2, 6, 5)), "tokens must be (B, S, 12), got (2, 6, 5)"),
        (lambda: mlp()(torch.ones(2, 0, DIM)), "tokens must be (B, S, 12), got (2, 0, 12)"),
        (lambda: mlp()(tokens(), torch.ones(2, 5, dtype=torch.bool)), "mask must be bool (2, 6), as tokens"),
        (lambda: mlp()(tokens(), torch.ones(2, 6)), "got torch.float32 (2, 6)"),
        (lambda: QFormer(DIM, OUT, queries=0), "queries must be a positive integer, got 0"),
        (lambda: QFormer(DIM, OUT, dim=10, heads=3), "dim 10 is not divisible by heads 3"),
        (lambda: PerceiverResampler(DIM, latents=-1), "latents must be a positive integer, got -1"),
        (lambda: MeanPoolMLP(DIM, OUT, rows=0), "rows must be a positive integer, got 0"),
    ],
)
def test_errors_name_the_argument(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
