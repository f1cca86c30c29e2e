"""InternVideo2: names and sizes, initialisation, positions, pool, classifier, layers, errors."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_layers import randomise
from videomae_fast.models import (
    AlignmentHeads,
    InternVideo2,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2ForClassification,
    get_internvideo2_config,
)
from videomae_fast.models.norms import add_branch

TINY = InternVideo2Config(
    48,
    3,
    3,
    mlp_ratio=3.21,
    pool_heads=4,
    clip_embed_dim=20,
    layer_scale=0.3,
    patch_size=8,
    num_frames=4,
    image_size=(16, 24),
)
HEADS = AlignmentHeads((0, 2), image_dim=24, pooled_dim=18, video_layers=(1, 2), video_dim=36)
# Encoder, and with its pool, in millions of parameters, as the published sizes are counted.
MILLIONS = {
    "small": (22.3, 23.0),
    "base": (87.1, 89.4),
    "large": (305, 309),
    "1b": (1014, 1021),
    "6b": (5909, 5942),
}


def student(config: InternVideo2Config = TINY, heads: AlignmentHeads = HEADS) -> InternVideo2ForAlignment:
    model = randomise(InternVideo2ForAlignment(config, heads))
    assert isinstance(model, InternVideo2ForAlignment)
    return model


def clip_for(config: InternVideo2Config = TINY, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, config.num_frames, *config.image_size, dtype=torch.float64)


def sum_of(output: Any) -> Tensor:
    return add_branch(*output)


def published_names(config: InternVideo2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a stage-1 checkpoint of the 1B kind, written out from the published checkpoint."""
    width, tokens, hidden = config.encoder_dim, config.num_tokens, int(config.encoder_dim * config.mlp_ratio)
    yield "cls_token", (1, 1, width)
    yield from ((name, (1, tokens + 1, width)) for name in ("pos_embed", "clip_pos_embed"))
    yield "mae_pos_embed", (1, tokens, width)
    yield from (("patch_embed.proj.weight", (width, 3, 1, 14, 14)), ("patch_embed.proj.bias", (width,)))
    for block in (f"blocks.{i}." for i in range(config.encoder_depth)):
        vectors = "norm1.weight norm2.weight attn.q_norm.weight attn.k_norm.weight attn.proj.bias ls1.gamma ls2.gamma"
        yield from ((block + name, (width,)) for name in vectors.split())
        yield from ((block + "attn.qkv.weight", (3 * width, width)), (block + "attn.proj.weight", (width, width)))
        yield from ((block + "mlp.fc1.weight", (hidden, width)), (block + "mlp.fc1.bias", (hidden,)))
        yield from ((block + "mlp.fc2.weight", (width, hidden)), (block + "mlp.fc2.bias", (width,)))
    for letter in "qkv":
        yield from ((f"clip_projector.norm1_{letter}.{part}", (width,)) for part in ("weight", "bias"))
        yield f"clip_projector.cross_attn.{letter}.weight", (width, width)
        yield f"clip_projector.cross_attn.{letter}_bias", (width,)
    yield from (
        ("clip_projector.cross_attn.proj.weight", (768, width)),
        ("clip_projector.cross_attn.proj.bias", (768,)),
    )


def published_heads(width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for j in range(6):
        yield from ((f"clip_decoder.{j}.head.weight", (3200, width)), (f"clip_decoder.{j}.head.bias", (3200,)))
        yield from ((f"clip_decoder.{j}.norm.{part}", (3200,)) for part in ("weight", "bias"))
    yield from (("final_clip_decoder.head.weight", (768, 768)), ("final_clip_decoder.head.bias", (768,)))
    yield from ((f"final_clip_decoder.norm.{part}", (768,)) for part in ("weight", "bias"))
    for j in range(4):
        yield from ((f"mae_decoder.{j}.head.0.weight", (width, width)), (f"mae_decoder.{j}.head.0.bias", (width,)))
        yield from ((f"mae_decoder.{j}.head.2.weight", (1408, width)), (f"mae_decoder.{j}.head.2.bias", (1408,)))
        yield from ((f"mae_decoder.{j}.norm.{part}", (1408,)) for part in ("weight", "bias"))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("size", MILLIONS)
def test_names_and_parameters(size: str) -> None:
    config = get_internvideo2_config(size)
    depth = config.encoder_depth
    heads = AlignmentHeads(tuple(range(depth - 6, depth)), video_layers=tuple(range(depth - 4, depth)))
    with torch.device("meta"):
        aligned = InternVideo2ForAlignment(config, heads)
        classifier = InternVideo2ForClassification(config, 710)
        encoder = InternVideo2(config)
    trunk = dict(published_names(config))
    assert shapes(aligned) == trunk | dict(published_heads(config.encoder_dim))
    assert dict(aligned.named_parameters()).keys() == aligned.state_dict().keys()
    trunk = {name: shape for name, shape in trunk.items() if not name.startswith(("clip_pos", "mae_pos"))}
    ends = {"fc_norm.weight": (768,), "fc_norm.bias": (768,), "head.weight": (710, 768), "head.bias": (710,)}
    assert shapes(encoder) == trunk and shapes(classifier) == trunk | ends
    pool = sum(p.numel() for name, p in encoder.named_parameters() if name.startswith("clip_projector"))
    whole = sum(p.numel() for p in encoder.parameters())
    for found, millions in zip((whole - pool, whole), MILLIONS[size], strict=True):
        assert found / 1e6 == pytest.approx(millions, rel=0.004)


def test_names_of_distilled_models() -> None:
    """MLP heads, also of the pooled row; one more table, and no video teacher."""
    config = get_internvideo2_config("small")
    with torch.device("meta"):
        model = InternVideo2ForAlignment(config, AlignmentHeads(tuple(range(6, 12)), image_dim=1408, image_mlp=True))
    heads = {name: shape for name, shape in shapes(model).items() if "decoder" in name}
    one = {"head.0.weight": (384, 384), "head.0.bias": (384,), "head.2.weight": (1408, 384), "head.2.bias": (1408,)}
    norm = {"norm.weight": (1408,), "norm.bias": (1408,)}
    expected = {f"clip_decoder.{j}.{name}": shape for j in range(6) for name, shape in (one | norm).items()}
    pooled = {f"final_clip_decoder.{name}": (768, 768)[: len(shape)] for name, shape in (one | norm).items()}
    assert heads == expected | pooled
    assert "clip_pos_embed" in shapes(model) and "mae_pos_embed" not in shapes(model)


def test_initialisation() -> None:
    torch.manual_seed(0)
    config = replace(TINY, encoder_dim=64, encoder_heads=4)
    for model in (student_of_new(config), InternVideo2ForClassification(config, 50, init_scale=0.5)):
        for name, module in model.requires_grad_(False).named_modules():
            if isinstance(module, nn.Linear):
                number = re.fullmatch(r"blocks\.(\d)\.(attn\.proj|mlp\.fc2)", name)
                std = 0.02 * (0.5 if name == "head" else 1) / (math.sqrt(2 * (int(number[1]) + 1)) if number else 1)
                assert module.weight.std() == pytest.approx(std, rel=4 / math.sqrt(module.weight.numel())), name
                assert module.bias is None or not module.bias.any(), name
        for name, parameter in model.named_parameters():
            if "norm" in name:
                assert (parameter == float(name.endswith("weight"))).all(), name
            elif name.endswith("gamma"):
                assert (parameter == 0.3).all(), name
            elif re.search(r"\.[qkv]_bias$", name):
                assert not parameter.any(), name
        assert 0.01 < model.cls_token.std() < 0.03
        table = model.pos_embed[0]
        assert not table[0].any() and table[1:].any(1).all()
    aligned = student_of_new(config)
    assert torch.equal(aligned.clip_pos_embed, aligned.pos_embed)
    assert torch.equal(aligned.mae_pos_embed, aligned.pos_embed[:, 1:])


def student_of_new(config: InternVideo2Config) -> InternVideo2ForAlignment:
    return InternVideo2ForAlignment(config, HEADS)


def test_positions_by_a_loop() -> None:
    """Time in the first quarter of the columns, then the column of the token, then its row."""
    model = InternVideo2(TINY)
    table = model.pos_embed[0, 1:].view(4, 2, 3, 48)
    for t, row, column in ((0, 0, 0), (3, 1, 2), (2, 0, 1)):
        expected = []
        for place, width in ((t, 12), (column, 18), (row, 18)):
            angles = [place / 10000 ** (i / (width // 2)) for i in range(width // 2)]
            expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(table[t, row, column], torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_the_pool_by_its_formula() -> None:
    model = student()
    pool = model.clip_projector
    assert pool is not None
    x = torch.randn(2, 9, 48, dtype=torch.float64)
    attn = pool.cross_attn
    q = pool.norm1_q(x.mean(1)) @ attn.q.weight.T + attn.q_bias
    k = pool.norm1_k(x) @ attn.k.weight.T + attn.k_bias
    v = pool.norm1_v(x) @ attn.v.weight.T + attn.v_bias
    mixed = []
    for head in range(4):
        columns = slice(12 * head, 12 * (head + 1))
        scores = torch.einsum("bd,bnd->bn", q[:, columns], k[..., columns]) / math.sqrt(12)
        mixed.append(torch.einsum("bn,bnd->bd", scores.softmax(1), v[..., columns]))
    expected = torch.cat(mixed, dim=1) @ attn.proj.weight.T + attn.proj.bias
    torch.testing.assert_close(pool(x), expected, rtol=1e-12, atol=1e-12)
    assert all(module.eps == 1e-5 for module in pool.modules() if isinstance(module, nn.LayerNorm))


def test_the_classifier() -> None:
    """Logits are the head of the features, these the norm of the pool of cls and tokens; of some tokens, too."""
    model = randomise(InternVideo2ForClassification(TINY, 7))
    assert isinstance(model, InternVideo2ForClassification) and model.clip_projector is not None
    clip, index = clip_for(), torch.tensor([[0, 3, 5, 6, 20], [1, 2, 7, 22, 23]])
    for listed in (None, index):
        rows: list[Tensor] = []
        hook = model.blocks[-1].register_forward_hook(lambda _, __, out, rows=rows: rows.append(sum_of(out)))
        features, logits = model.features(clip, listed), model(clip, listed)
        hook.remove()
        torch.testing.assert_close(features, model.fc_norm(model.clip_projector(rows[0])), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(logits, model.head(features), rtol=1e-12, atol=1e-12)
        tokens = model.tokens(clip, listed)
        torch.testing.assert_close(tokens, rows[0][:, 1:], rtol=1e-12, atol=1e-12)
    assert features.shape == (2, 20) and model.feature_dim == 20
    everything = torch.randperm(24).expand(2, -1)
    torch.testing.assert_close(model(clip, everything), model(clip), rtol=1e-12, atol=1e-12)


def test_layers_and_freezing() -> None:
    model = InternVideo2ForClassification(replace(TINY, drop_path=0.5), 7)
    expected = {"cls_token": 0, "pos_embed": 0, "patch_embed": 0, "clip_projector": 4, "fc_norm": 4, "head": 4}
    for name, _ in model.named_parameters():
        first, second = (*name.split("."), "")[:2]
        assert model.layer_id(name) == (int(second) + 1 if first == "blocks" else expected[first]), name
    with pytest.raises(
        ValueError, match=r"begin with patch_embed, cls_token, pos_embed, blocks\.0 to blocks\.2, clip_pro"
    ):
        model.layer_id("decoder.weight")
    model.freeze("last:1")
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "clip_projector", "fc_norm", "head"}
    assert all(
        p.requires_grad == name.startswith("blocks.2") for name, p in model.named_parameters() if "blocks" in name
    )
    model(clip_for().float()).sum().backward()
    assert model.pos_embed.grad is None and model.cls_token.grad is None
    model.freeze("head")
    assert not any(p.requires_grad for p in model.blocks.parameters())


CONFIG_ERRORS: list[tuple[dict[str, Any], str]] = [
    (dict(encoder_dim=40, encoder_heads=4), "encoder_dim must be a multiple of 16 for the position tables, got 40"),
    (dict(pool_heads=5), "encoder_dim 48 is not divisible by pool_heads 5"),
    (dict(image_size=(16, 20)), r"image_size \(16, 20\) must be multiples"),
    (dict(clip_embed_dim=0), "clip_embed_dim must be positive, got 0"),
]


@pytest.mark.parametrize("change, message", CONFIG_ERRORS, ids=str)
def test_errors_of_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
    with pytest.raises(ValueError, match=r"size must be one of \('nano', 'small', .*'6b'\), got 'huge'"):
        get_internvideo2_config("huge")


def test_features_without_a_pool_are_means() -> None:
    model, index = randomise(InternVideo2(TINY, pool=False)), torch.tensor([[0, 3, 5], [1, 2, 7]])
    assert isinstance(model, InternVideo2) and model.feature_dim == 48
    for listed in (None, index):
        assert torch.equal(model.features(clip_for(), listed), model.tokens(clip_for(), listed).mean(1))


def test_errors_of_inputs() -> None:
    clip = clip_for().float()
    bare = InternVideo2(TINY, pool=False)
    with pytest.raises(
        ValueError, match=re.escape("index must be (2, K) with one token or more of each clip, got (6, 7)")
    ):
        bare.tokens(clip, torch.zeros(6, 7, dtype=torch.int64))
    assert bare.tokens(clip).shape == (2, 24, 48)
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        InternVideo2ForClassification(TINY, 0)
    with pytest.raises(ValueError, match=re.escape("head_dropout must be in [0, 1), got 1")):
        InternVideo2ForClassification(TINY, 2, head_dropout=1)


def test_sides_of_an_image_are_integers() -> None:
    with pytest.raises(TypeError, match=r"image_size must be integers, got \(16\.0, 24\)"):
        get_internvideo2_config("small", image_size=(16.0, 24), patch_size=8)
