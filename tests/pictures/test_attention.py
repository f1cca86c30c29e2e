"""Attention rollout against whole matrices in float64, and the picture of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.models.test_classify import TINY, build
from videomae_fast.models import VideoMAEConfig, VideoMAEForClassification
from videomae_fast.pictures import attention
from videomae_fast.pictures.attention import FRAMES_SHOWN, attention_rollout, draw_attention, save_attention


def make_clip(config: VideoMAEConfig = TINY) -> Tensor:
    """(T, H, W, C) of noise."""
    shape = (config.num_frames, *config.image_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_model() -> VideoMAEForClassification:
    """In float64, with attention far from uniform."""
    model = build().eval()
    for block in model.blocks:
        block.attn.qkv.weight.data.mul_(4)
    return model


def written_out(model: VideoMAEForClassification, clip: Tensor) -> Tensor:
    """All matrices, all heads, all layers: the product of N×N matrices from the first layer to the last."""
    config = model.config
    tokens, heads = config.num_tokens, config.encoder_heads
    index = torch.arange(tokens)[None]
    x = model.patch_embed(clip[None].permute(0, 4, 1, 2, 3), index, model.position)[0]
    product = torch.eye(tokens, dtype=torch.float64)
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        normed = block.norm1(x)
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        q, k, v = (normed @ attn.qkv.weight.T + bias).view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
        weights = (q @ k.mT / q.shape[2] ** 0.5).softmax(-1)
        mixed = 0.5 * weights.mean(0) + 0.5 * torch.eye(tokens, dtype=torch.float64)
        product = mixed / mixed.sum(1, keepdim=True) @ product
        x = x + attn.proj((weights @ v).transpose(0, 1).reshape(tokens, -1))
        x = x + mlp.fc2(torch.nn.functional.gelu(mlp.fc1(block.norm2(x))))
    return product.mean(0).view(config.grid)


@pytest.mark.parametrize("probabilities", [2**24, 7 * 2 * 96, 1])
def test_written_out(probabilities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows of the attention are made at a time."""
    monkeypatch.setattr(attention, "PROBABILITIES", probabilities)
    model, clip = make_model(), make_clip()
    with torch.no_grad():
        expected = written_out(model, clip)
    ours = attention_rollout(model, clip)
    assert ours.shape == TINY.grid and ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert float(ours.sum()) == pytest.approx(1, abs=1e-12)
    assert expected.max() > 1.2 * expected.min()


def test_the_model_is_as_it_was() -> None:
    model, clip = make_model(), make_clip()
    expected = model(clip[None], layout="BTHWC")
    attention_rollout(model, clip)
    assert not any(block._forward_pre_hooks for block in model.blocks)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(clip[None], layout="BTHWC"), expected)


def test_hooks_go_when_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="clip must have T=8 as the model was built for"):
        attention_rollout(model, make_clip()[:4])
    assert not any(block._forward_pre_hooks for block in model.blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_of_models(dtype: torch.dtype) -> None:
    model, clip = make_model(), make_clip()
    expected = attention_rollout(model, clip)
    ours = attention_rollout(model.to(dtype), clip)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4 if dtype == torch.float32 else 0.2, atol=0)


def dominant(token: int) -> VideoMAEForClassification:
    """A classifier whose every query finds one token: its position alone has the direction that all queries ask for."""
    model = build()
    with torch.no_grad():
        direction = torch.zeros(48, dtype=torch.float64)
        direction[::16], direction[1::16] = 1, -1  # in each of three heads
        model.patch_embed.proj.weight.zero_()
        model.patch_embed.proj.bias.zero_()
        model.position.zero_()
        model.position[token] = direction
        for block in model.blocks:
            block.norm1.weight.fill_(1)
            block.norm1.bias.zero_()
            block.attn.qkv.weight.zero_()
            block.attn.q_bias.copy_(10 * direction)
            block.attn.qkv.weight[48:96] = torch.eye(48)
            for branch in (block.attn.proj, block.mlp.fc2):  # tokens stay what they are
                branch.weight.zero_()
                branch.bias.zero_()
    return model.eval()


@pytest.mark.parametrize("token", [0, 31, 95])
def test_a_dominant_token_is_found_and_drawn_where_it_is(token: int) -> None:
    clip = make_clip()
    rollout = attention_rollout(dominant(token), clip)
    assert int(rollout.argmax()) == token
    assert rollout.flatten()[token] == pytest.approx(1 - 95 / 96 / 2**3, abs=1e-3)  # all but what I keeps, in 3 layers
    picture = np.asarray(draw_attention(torch.zeros_like(clip), rollout))
    t, h, w = token // 24, token // 6 % 4, token % 6
    height, width = TINY.image_size
    heat = picture[height + 4 : 2 * height + 4, : 8 * width].astype(int).sum(2)
    bright = np.zeros_like(heat, dtype=bool)
    for frame in (2 * t, 2 * t + 1):
        bright[8 * h : 8 * h + 8, frame * width + 8 * w : frame * width + 8 * w + 8] = True
    assert heat[bright].min() > 300 and heat[~bright].max() < 50


def test_equal_shares_are_dark() -> None:
    clip = make_clip()
    picture = np.asarray(draw_attention(torch.zeros_like(clip), torch.full(TINY.grid, 1 / 96)))
    assert picture[36:68, : 8 * 48].max() < 30


def test_the_picture(tmp_path: Path) -> None:
    """Frames of the clip, the same below, and the line; long clips show frames from the first to the last."""
    model, clip = make_model(), make_clip()
    save_attention(model, clip, tmp_path / "attention.png")
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size[0] >= 8 * 48 and picture.size[1] > 2 * 32
        shown = np.asarray(picture)[:32, : 8 * 48].reshape(32, 8, 48, 3).transpose(1, 0, 2, 3)
    assert np.array_equal(shown, clip)
    long = torch.arange(24, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 3)
    row = np.asarray(draw_attention(long, torch.rand(12, 1, 1)))[0, : 8 * FRAMES_SHOWN : 8, 0]
    assert row[0] == 0 and row[-1] == 23 and len(set(row.tolist())) == FRAMES_SHOWN
    assert draw_attention(clip[:2], torch.rand(1, 4, 6)).size[0] >= 2 * 48


def test_bad_input(tmp_path: Path) -> None:
    model, clip = make_model(), make_clip()
    with pytest.raises(TypeError, match=r"clip must be uint8, got torch.float32"):
        attention_rollout(model, clip / 255)
    with pytest.raises(ValueError, match=r"clip must have shape \(T, H, W, C\), got \(1, 8, 32, 48, 3\)"):
        attention_rollout(model, clip[None])
    with pytest.raises(ValueError, match=r"output must name a picture that Pillow writes"):
        save_attention(model, clip, tmp_path / "attention.txt")
    with pytest.raises(ValueError, match=r"model is in training mode, .*: call model.eval\(\)"):
        save_attention(model.train(), clip, tmp_path / "attention.png")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'videomae-fast\[train\]'"):
        save_attention(make_model(), make_clip(), tmp_path / "attention.png")
