"""The published sizes S, B, L, H and g: parameter counts, checkpoint names and shapes."""

import pytest
import torch

from benchmarks.baselines.published import PublishedVideoMAE

# dims; parameters in millions: encoder, decoder, total; tensors in the checkpoint
BASE = dict(encoder_dim=768, encoder_depth=12, encoder_heads=12, decoder_dim=384, decoder_heads=6)
SIZES = {
    "small": (
        dict(encoder_dim=384, encoder_depth=12, encoder_heads=6, decoder_dim=192, decoder_heads=3),
        (21.88, 2.08, 24.03),
        218,
    ),
    "base": (BASE, (86.23, 7.69, 94.21), 218),
    "large": (
        dict(encoder_dim=1024, encoder_depth=24, encoder_heads=16, decoder_dim=512, decoder_heads=8),
        (303.86, 13.40, 317.78),
        374,
    ),
    "huge": (
        dict(encoder_dim=1280, encoder_depth=32, encoder_heads=16, decoder_dim=512, decoder_heads=8),
        (631.61, 13.40, 645.66),
        478,
    ),
    "giant": (
        dict(
            patch_size=14,
            encoder_dim=1408,
            encoder_depth=40,
            encoder_heads=16,
            decoder_dim=512,
            decoder_heads=8,
            mlp_ratio=48 / 11,
        ),
        (1011.6, 13.97, 1026.3),
        582,
    ),
}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_tensor_counts(size):
    dims, millions, tensors = SIZES[size]
    with torch.device("meta"):
        model = PublishedVideoMAE(**dims)

    def count(module):
        return sum(p.numel() for p in module.parameters()) / 1e6

    assert len(model.state_dict()) == tensors
    assert not list(model.buffers())
    for part, expected in zip((model.encoder, model.decoder, model), millions, strict=True):
        assert count(part) == pytest.approx(expected, abs=0.05 if expected > 1000 else 0.0051)


def test_base_names_and_shapes():
    with torch.device("meta"):
        state = {name: tuple(t.shape) for name, t in PublishedVideoMAE(**BASE).state_dict().items()}
    block = {
        "norm1.weight": (768,),
        "norm1.bias": (768,),
        "norm2.weight": (768,),
        "norm2.bias": (768,),
        "attn.q_bias": (768,),
        "attn.v_bias": (768,),
        "attn.qkv.weight": (2304, 768),
        "attn.proj.weight": (768, 768),
        "attn.proj.bias": (768,),
        "mlp.fc1.weight": (3072, 768),
        "mlp.fc1.bias": (3072,),
        "mlp.fc2.weight": (768, 3072),
        "mlp.fc2.bias": (768,),
    }
    expected = {
        "mask_token": (1, 1, 384),
        "encoder.patch_embed.proj.weight": (768, 3, 2, 16, 16),
        "encoder.patch_embed.proj.bias": (768,),
        "encoder.norm.weight": (768,),
        "encoder.norm.bias": (768,),
        "decoder.norm.weight": (384,),
        "decoder.norm.bias": (384,),
        "decoder.head.weight": (1536, 384),
        "decoder.head.bias": (1536,),
        "encoder_to_decoder.weight": (384, 768),
    }
    for i in range(12):
        expected |= {f"encoder.blocks.{i}.{name}": shape for name, shape in block.items()}
    for i in range(4):
        halved = {name: tuple(n // 2 for n in shape) for name, shape in block.items()}
        expected |= {f"decoder.blocks.{i}.{name}": shape for name, shape in halved.items()}
    assert state == expected


def test_giant_shapes():
    with torch.device("meta"):
        state = PublishedVideoMAE(**SIZES["giant"][0]).state_dict()
    assert state["encoder.patch_embed.proj.weight"].shape == (1408, 3, 2, 14, 14)
    assert state["encoder.blocks.39.attn.qkv.weight"].shape == (4224, 1408)
    assert state["encoder.blocks.0.mlp.fc1.weight"].shape == (6144, 1408)
    assert state["decoder.blocks.0.mlp.fc1.weight"].shape == (2234, 512)
    assert state["decoder.head.weight"].shape == (1176, 512)
