"""Attention rollout of a classifier with an attention pool against whole matrices in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from videomae_fast.models import InternVideo2Config, InternVideo2ForClassification
from videomae_fast.pictures import attention
from videomae_fast.pictures.attention import attention_rollout, save_attention

TINY = InternVideo2Config(
    32, 3, 2, pool_heads=4, clip_embed_dim=12, layer_scale=0.5, patch_size=8, num_frames=2, image_size=(24, 32)
)


def make_clip() -> Tensor:
    """(T, H, W, C) of noise."""
    shape = (TINY.num_frames, *TINY.image_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_model() -> InternVideo2ForClassification:
    """In float64, with attention far from uniform."""
    torch.manual_seed(0)
    model = InternVideo2ForClassification(TINY, 5).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith(("q_norm.weight", "cross_attn.q.weight")):
                parameter.mul_(4)
    return model


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def written_out(model: InternVideo2ForClassification, clip: Tensor) -> Tensor:
    """All matrices, all heads, all layers: the product of matrices from the first layer to the pool."""
    x = model.embed(clip[None].permute(0, 4, 1, 2, 3), torch.arange(TINY.num_tokens)[None])[0]
    rows = len(x)
    product = torch.eye(rows, dtype=torch.float64)
    for block in model.blocks:
        attn = block.attn
        q, k, v = (rms(x, block.norm1) @ attn.qkv.weight.T).chunk(3, 1)
        q, k = rms(q, attn.q_norm), rms(k, attn.k_norm)
        q, k, v = (each.view(rows, TINY.encoder_heads, -1).transpose(0, 1) for each in (q, k, v))
        weights = (q @ k.mT / q.shape[2] ** 0.5).softmax(-1)
        product = (weights.mean(0) + torch.eye(rows)) / 2 @ product
        x = x + block.ls1.gamma * attn.proj((weights @ v).transpose(0, 1).reshape(rows, -1))
        x = x + block.ls2.gamma * block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(rms(x, block.norm2))))
    pool = model.clip_projector
    assert pool is not None
    cross = pool.cross_attn
    q = nn.functional.layer_norm(x.mean(0), (32,), pool.norm1_q.weight, pool.norm1_q.bias, 1e-5)
    k = nn.functional.layer_norm(x, (32,), pool.norm1_k.weight, pool.norm1_k.bias, 1e-5)
    q, k = q @ cross.q.weight.T + cross.q_bias, k @ cross.k.weight.T + cross.k_bias
    q, k = q.view(TINY.pool_heads, 1, -1), k.view(rows, TINY.pool_heads, -1).transpose(0, 1)
    share = (q @ k.mT / q.shape[2] ** 0.5).softmax(-1).mean(0)[0] @ product
    return (share[1:] / share[1:].sum()).view(TINY.grid)


@pytest.mark.parametrize("probabilities", [2**24, 7 * 2 * 25])
def test_written_out(probabilities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PROBABILITIES", probabilities)
    model, clip = make_model(), make_clip()
    with torch.no_grad():
        expected = written_out(model, clip)
    ours = attention_rollout(model, clip)
    assert ours.shape == TINY.grid and ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert float(ours.sum()) == pytest.approx(1, abs=1e-12) and expected.max() > 1.2 * expected.min()


def test_the_model_is_as_it_was_and_the_picture_is_drawn(tmp_path: Path) -> None:
    model, clip = make_model().float(), make_clip()
    expected = model(clip[None], layout="BTHWC")
    save_attention(model, clip, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 500
    assert model.clip_projector is not None and not model.clip_projector._forward_pre_hooks
    assert not any(block._forward_pre_hooks for block in model.blocks)
    assert torch.equal(model(clip[None], layout="BTHWC"), expected)
