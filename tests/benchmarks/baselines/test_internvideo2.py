"""The baseline of InternVideo2's stage 1 against the rules of the publication, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.internvideo2 import (
    PublishedClipTeacher,
    PublishedImageTeacher,
    PublishedInternVideo2,
    PublishedInternVideo2Classifier,
    PublishedVideoTeacher,
    alignment_losses,
    attention_mask,
    kept_targets,
    layers,
    position_table,
    total_loss,
)
from benchmarks.baselines.internvideo2 import student as student_module
from benchmarks.baselines.published.model import Encoder, sinusoid_table

TRUNK = dict(
    grid=(4, 2, 3), patch=(1, 8, 8), dim=32, depth=3, heads=2, mlp_ratio=2.7, layer_scale=0.3, pool_heads=4, pool_dim=24
)
HEADS = dict(image_layers=(1, 2), image_dim=20, image_mlp=False, pooled_dim=12, video_layers=(2,), video_dim=28)
TOKENS = 24


def with_values(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms begin at 0 and 1: give them values, or a swapped one would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def student(**changes) -> PublishedInternVideo2:
    torch.manual_seed(0)
    return with_values(PublishedInternVideo2(**(TRUNK | HEADS | changes)))


def clip(batch: int = 2, frames: int = 4) -> Tensor:
    return torch.randn(batch, 3, frames, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mask(batch: int = 2) -> Tensor:
    """3 of the 6 tokens of each frame are hidden."""
    weights = torch.rand(batch * 4, 6, generator=torch.Generator().manual_seed(2))
    return attention_mask(weights, 0.5, batch)


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def rms(x: Tensor, norm: torch.nn.RMSNorm) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    q, k, v = (t.view(*t.shape[:2], heads, -1) for t in (q, k, v))
    weights = (torch.einsum("bqhc,bkhc->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bhqk,bkhc->bqhc", weights, v).flatten(2), weights.mean(1)


def block_written_out(x: Tensor, block: torch.nn.Module) -> Tensor:
    q, k, v = (rms(x, block.norm1) @ block.attn.qkv.weight.T).chunk(3, -1)
    mixed, _ = attend(rms(q, block.attn.q_norm), rms(k, block.attn.k_norm), v, 2)
    x = x + block.ls1.gamma * block.attn.proj(mixed)
    hidden = block.mlp.fc1(rms(x, block.norm2))
    return x + block.ls2.gamma * block.mlp.fc2(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)


def pool_written_out(x: Tensor, pool: torch.nn.Module) -> tuple[Tensor, Tensor]:
    cross = pool.cross_attn
    q = cross.q(layer_norm(x.mean(1, keepdim=True), pool.norm1_q)) + cross.q_bias
    k, v = cross.k(layer_norm(x, pool.norm1_k)) + cross.k_bias, cross.v(layer_norm(x, pool.norm1_v)) + cross.v_bias
    mixed, weights = attend(q, k, v, 4)
    return cross.proj(mixed).squeeze(1), weights.squeeze(1)


def all_tokens(model: torch.nn.Module, video: Tensor) -> Tensor:
    """cls token and all patches, with positions."""
    frames, weight = video.shape[2], model.patch_embed.proj.weight
    patches = video.view(len(video), 3, frames, 2, 8, 3, 8).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    x = patches @ weight.flatten(1).T + model.patch_embed.proj.bias
    return torch.cat([model.cls_token.expand(len(x), 1, -1), x], 1) + model.pos_embed


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def test_positions():
    table = position_table((3, 2, 4), 32, cls_token=True)[0]
    assert table.shape == (25, 32) and not table[0].any()
    t, h, w = 2, 1, 3
    row = table[1 + (t * 2 + h) * 4 + w]
    for position, columns in ((t, row[:8]), (w, row[8:20]), (h, row[20:])):
        half = len(columns) // 2
        for i in range(half):
            angle = position / 10000 ** (i / half)
            assert columns[i] == pytest.approx(math.sin(angle)) and columns[half + i] == pytest.approx(math.cos(angle))
    torch.testing.assert_close(position_table((3, 2, 4), 32, cls_token=False)[0], table[1:], rtol=0, atol=0)
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        position_table((3, 2, 4), 24, cls_token=True)


@pytest.mark.parametrize("mlp", [False, True])
def test_student_written_out(mlp):
    model, hidden = student(image_mlp=mlp), mask()
    visible = torch.stack([(~row).nonzero()[:, 0] for row in hidden])
    every = all_tokens(model, clip())
    x, after = torch.stack([tokens[rows] for tokens, rows in zip(every, visible, strict=True)]), []
    for block in model.blocks:
        x = block_written_out(x, block)
        after.append(x)
    image, pooled, video = model(clip(), hidden)
    assert image.shape == (2, 2, 13, 20) and video.shape == (1, 2, 12, 28) and pooled.shape == (2, 12)
    assert isinstance(model.clip_decoder[0].head, torch.nn.Sequential) == mlp
    for layer, head, found in zip((1, 2), model.clip_decoder, image, strict=True):
        rows = after[layer] + model.clip_pos_embed[0][visible]
        torch.testing.assert_close(found, unit(layer_norm(head.head(rows), head.norm)), rtol=1e-10, atol=1e-11)
    rows = after[2][:, 1:] + model.mae_pos_embed[0][visible[:, 1:] - 1]
    head = model.mae_decoder[0]
    hidden_units = head.head[0](rows)
    rows = head.head[2](hidden_units * (1 + torch.erf(hidden_units / 2**0.5)) / 2)
    torch.testing.assert_close(video[0], unit(layer_norm(rows, head.norm)), rtol=1e-10, atol=1e-11)
    head = model.final_clip_decoder
    expected = unit(layer_norm(head.head(pool_written_out(x, model.clip_projector)[0]), head.norm))
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-11)


def test_heads_can_be_left_out():
    alone = student(video_layers=(), pooled_dim=None)
    image, pooled, video = alone(clip(), mask())
    assert image is not None and pooled is None and video is None
    assert not {name for name in alone.state_dict() if name.startswith(("mae", "final"))}
    assert student(image_layers=())(clip(), mask())[0] is None


def test_classifier_written_out():
    torch.manual_seed(0)
    model = with_values(PublishedInternVideo2Classifier(5, **TRUNK))
    x = all_tokens(model, clip())
    for block in model.blocks:
        x = block_written_out(x, block)
    features = layer_norm(pool_written_out(x, model.clip_projector)[0], model.fc_norm)
    torch.testing.assert_close(model(clip()), model.head(features), rtol=1e-10, atol=1e-11)


def test_checkpointing_changes_nothing():
    left, right, hidden = student(), student(checkpointing=True), mask()
    found = []
    for model in (left, right):
        loss = sum(part.sum() for part in model(clip(), hidden))
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)


def test_drop_path():
    """Rates rise from 0; a dropped branch leaves the sample alone, a kept one is scaled; evaluation drops nothing."""
    model = student(drop_path=0.5).train()
    assert [block.rate for block in model.blocks] == [0, 0.25, 0.5]
    block, x = model.blocks[2], torch.randn(2, 5, 32, dtype=torch.float64)
    found = block(x, torch.tensor([[True, False], [False, True]]))
    torch.testing.assert_close(found[0], (x + 2 * block.ls1(block.attn(block.norm1(x))))[0])
    torch.testing.assert_close(found[1], (x + 2 * block.ls2(block.mlp(block.norm2(x))))[1])
    torch.testing.assert_close(block.eval()(x), block_written_out(x, block))


def test_initialisation():
    torch.manual_seed(0)
    model = PublishedInternVideo2(**(TRUNK | HEADS | dict(dim=64, heads=4)))
    torch.testing.assert_close(
        model.mae_pos_embed.detach().double(), position_table((4, 2, 3), 64, False), rtol=0, atol=1e-7
    )
    assert model.blocks[1].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[1].attn.proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.05)
    assert model.blocks[2].mlp.fc2.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert model.clip_decoder[0].head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.mae_decoder[0].head[2].bias.any() and model.blocks[0].ls1.gamma.allclose(torch.tensor(0.3))


def test_masks():
    weights = torch.rand(3 * 4, 6)
    weights[:, 2] = 0
    hidden = attention_mask(weights, 0.4, 3)
    assert hidden.shape == (3, 25) and not hidden[:, 0].any()
    per_frame = ~hidden[:, 1:].view(3, 4, 6)
    assert (per_frame.sum(-1) == 6 - 2).all() and not per_frame[..., 2].any()
    of_clips = attention_mask(torch.rand(3, 24), 0.8, 3)
    assert ((~of_clips).sum(1) == 1 + 24 - 19).all()


def test_the_law_of_masks():
    """The first drawn token, and so a kept one of one, has the chances of the weights."""
    weights = torch.tensor([[1.0, 2, 3, 4]]).expand(20000, 4)
    torch.manual_seed(0)
    kept = ~attention_mask(weights, 0.75, 20000)[:, 1:]
    torch.testing.assert_close(kept.float().mean(0), torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.02)


def test_image_teacher_written_out():
    torch.manual_seed(0)
    teacher = with_values(PublishedImageTeacher(2, **(TRUNK | dict(grid=(1, 2, 3)))))
    features, pooled, attention = teacher(clip())
    assert features.shape == (2, 2, 1 + TOKENS, 32) and pooled.shape == (2, 24) and attention.shape == (8, 6)
    assert not features.requires_grad
    frames = clip().transpose(1, 2).flatten(0, 1)[:, :, None]
    x = all_tokens(teacher, frames)
    for number, block in enumerate(teacher.blocks):
        x = block_written_out(x, block)
        if number:
            of_clips = x.view(2, 4, 7, 32)
            rows = torch.cat([of_clips[:, :, 0].mean(1, keepdim=True), of_clips[:, :, 1:].reshape(2, TOKENS, 32)], 1)
            torch.testing.assert_close(features[number - 1], unit(rows), rtol=1e-10, atol=1e-11)
    of_frames, weights = pool_written_out(x, teacher.clip_projector)
    torch.testing.assert_close(pooled, unit(of_frames.view(2, 4, -1).mean(1)), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(attention, weights[:, 1:], rtol=1e-10, atol=1e-11)
    assert (attention.sum(1) < 1).all()


def test_video_teacher_written_out():
    """The last blocks of the VideoMAE encoder; the final norm only after the last."""
    torch.manual_seed(0)
    encoder = with_values(Encoder((16, 24), (2, 8, 8), TOKENS, 24, 3, 2, 4.0, "sdpa", False))
    features = PublishedVideoTeacher(encoder, 2)(clip(frames=8))
    x = encoder.patch_embed(clip(frames=8)) + sinusoid_table(TOKENS, 24, torch.float64)
    x = encoder.blocks[1](encoder.blocks[0](x))
    torch.testing.assert_close(features[0], F.normalize(x, dim=-1))
    torch.testing.assert_close(features[1], F.normalize(encoder.norm(encoder.blocks[2](x)), dim=-1))
    everything = encoder(clip(frames=8), torch.zeros(2, TOKENS, dtype=torch.bool))
    torch.testing.assert_close(features[1], F.normalize(everything, dim=-1))


def test_clip_teacher_written_out():
    torch.manual_seed(0)
    teacher = with_values(PublishedClipTeacher((0, 2), **TRUNK))
    features, pooled, attention = teacher(clip())
    x = all_tokens(teacher, clip())
    first = block_written_out(x, teacher.blocks[0])
    last = block_written_out(block_written_out(first, teacher.blocks[1]), teacher.blocks[2])
    torch.testing.assert_close(features, unit(torch.stack([first, last])), rtol=1e-10, atol=1e-11)
    mean, weights = pool_written_out(last, teacher.clip_projector)
    torch.testing.assert_close(pooled, unit(mean), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(attention, weights[:, 1:], rtol=1e-10, atol=1e-11)


def test_losses():
    hidden, features = mask(), unit(torch.randn(3, 2, 1 + TOKENS, 20, dtype=torch.float64))
    targets = kept_targets(features, hidden)
    assert targets.shape == (3, 2, 13, 20)
    torch.testing.assert_close(targets[1, 1], features[1, 1][~hidden[1]], rtol=0, atol=0)
    outputs = unit(torch.randn_like(targets))
    losses = alignment_losses(outputs, targets)
    squared = (outputs - targets).square().sum(-1)  # the distance of unit vectors
    torch.testing.assert_close(losses, squared.mean((1, 2)))
    torch.testing.assert_close(total_loss([losses, losses[:1]], [2, 3]), 2 * losses.mean() + 3 * losses[0])
    assert alignment_losses(targets, targets).abs().max() < 1e-12


# Millions of parameters of encoder with positions, with the pool, and with the heads of the published script.
SIZES = {
    "1b": (dict(dim=1408, depth=40, heads=16, mlp_ratio=48 / 11), (1014, 1021, 1070)),
    "6b": (dict(dim=3200, depth=48, heads=25, mlp_ratio=4), (5909, 5942, 6076)),
}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    trunk, expected = SIZES[size]
    depth = trunk["depth"]
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        for module in (layers, student_module):
            patch.setattr(module, "position_table", lambda grid, dim, cls_token: torch.empty(1, 2048 + cls_token, dim))
        model = PublishedInternVideo2(
            grid=(8, 16, 16),
            patch=(1, 14, 14),
            layer_scale=1e-5,
            pool_heads=16,
            pool_dim=768,
            image_layers=range(depth - 6, depth),
            image_dim=3200,
            image_mlp=False,
            pooled_dim=768,
            video_layers=range(depth - 4, depth),
            video_dim=1408,
            **trunk,
        )
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    encoder = sum(n for name, n in sizes.items() if not name.startswith(("clip", "mae", "final")))
    pool = sum(n for name, n in sizes.items() if name.startswith("clip_projector"))
    found = encoder, encoder + pool, sum(sizes.values())
    assert [round(n / 1e6) for n in found] == list(expected)
    assert sizes["clip_pos_embed"] == 2049 * trunk["dim"] and sizes["mae_pos_embed"] == 2048 * trunk["dim"]
