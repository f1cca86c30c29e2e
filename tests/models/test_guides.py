"""Guiding teachers of InternVideo2's architecture against the published mathematics written out."""

import weakref
from functools import partial
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.harness.counts import count
from tests.models.test_layers import randomise
from videomae_fast.models import (
    AlignmentHeads,
    InternVideo2,
    InternVideo2Config,
    InternVideo2ForAlignment,
    VideoMAEConfig,
    VideoMAETeacher,
    get_internvideo2_config,
)
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.frozen_teacher import observe_and_draw
from videomae_fast.models.guides import InternVideo2Guide
from videomae_kernels import crop_clips

DIM, HEADS, POOL_HEADS = 32, 4, 2
GRID = (4, 2, 3)
MASKS = torch.tensor([[0, 5, 6, 23], [5, 7, 11, 18], [1, 2, 3, 4], [1, 9, 10, 22]])  # two of each of two clips


def make_model(num_frames: int) -> InternVideo2:
    torch.manual_seed(0)
    sizes = dict(num_frames=num_frames, image_size=(16, 24), patch_size=8, pool_heads=POOL_HEADS, clip_embed_dim=10)
    return randomise(InternVideo2(InternVideo2Config(DIM, 3, HEADS, layer_scale=0.1, **sizes)))


def make_clip() -> Tensor:
    return torch.randn(2, 3, 4, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def written_out(model: InternVideo2, clip: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Of clips alone: features (B, 1 + N, D) of each block, the pooled row, and the pool's attention (B, N)."""
    patch, pool = model.patch_embed.proj, model.clip_projector
    tokens = F.conv3d(clip, patch.weight, patch.bias, stride=patch.stride).flatten(2).mT
    x = torch.cat([model.cls_token.expand(len(clip), -1, -1), tokens], 1) + model.pos_embed
    found = []
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        q, k, v = (rms(x, block.norm1.weight) @ attn.qkv.weight.T).chunk(3, -1)
        q, k = rms(q, attn.q_norm.weight), rms(k, attn.k_norm.weight)
        q, k, v = (split(t, HEADS) for t in (q, k, v))
        mixed = ((q @ k.mT / (DIM // HEADS) ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + block.ls1.gamma * attn.proj(mixed)
        x = x + block.ls2.gamma * mlp.fc2(F.gelu(mlp.fc1(rms(x, block.norm2.weight))))
        found.append(x)
    cross = pool.cross_attn
    inputs = ("q", x.mean(1, keepdim=True)), ("k", x), ("v", x)
    q, k, v = (
        split(getattr(cross, name)(getattr(pool, f"norm1_{name}")(rows)) + getattr(cross, f"{name}_bias"), POOL_HEADS)
        for name, rows in inputs
    )
    weights = (q @ k.mT / (DIM // POOL_HEADS) ** 0.5).softmax(-1)
    pooled = cross.proj((weights @ v).transpose(1, 2).flatten(2))[:, 0]
    return found, pooled, weights.mean(1)[:, 0, 1:]


def expected_frames(model: InternVideo2, clip: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Each frame alone: the mean of the cls tokens, then the tokens of all frames; the mean of the pooled rows."""
    frames = clip.transpose(1, 2).flatten(0, 1)[:, :, None]
    found, pooled, attention = written_out(model, frames)
    views = [x.unflatten(0, (len(clip), -1)) for x in (*found, pooled, attention)]
    *layers, pooled, attention = views
    joined = [torch.cat([x[:, :, :1].mean(1), x[:, :, 1:].flatten(1, 2)], 1) for x in layers]
    return joined, pooled.mean(1), attention.flatten(1)


def at_masks(x: Tensor) -> Tensor:
    return torch.stack([torch.cat([x[r // 2, :1], x[r // 2, listed + 1]]) for r, listed in enumerate(MASKS)])


@pytest.mark.parametrize("layers", [(0, 2), (1,)])
@pytest.mark.parametrize("num_frames", [1, 4])
def test_guide_is_the_published_mathematics(num_frames: int, layers: tuple[int, ...]) -> None:
    model, clip = make_model(num_frames), make_clip()
    found, pooled, attention = (expected_frames if num_frames == 1 else written_out)(model, clip)
    guide = InternVideo2Guide(model, layers, num_frames=4, dtype=torch.float64)
    assert (guide.grid, guide.dim, guide.has_cls, guide.pooled_dim) == (GRID, DIM, True, 10)
    seen = guide.observe(clip)
    torch.testing.assert_close(seen.attention, attention.view(2, *GRID), rtol=1e-12, atol=1e-13)
    assert (seen.attention.flatten(1).sum(1) < (4 if num_frames == 1 else 1)).all()  # without the cls column
    rows = seen.rows(MASKS)
    assert all(map(torch.equal, seen.rows(MASKS.int()).layers, rows.layers))
    torch.testing.assert_close(rows.pooled, pooled, rtol=1e-11, atol=1e-12)
    assert len(rows.layers) == len(layers)
    for number, layer in zip(layers, rows.layers, strict=True):
        assert layer.shape == (4, 5, DIM)
        torch.testing.assert_close(layer, at_masks(found[number]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_a_batch_in_parts_is_the_batch_and_only_rows_survive(num_frames: int) -> None:
    model, clip = make_model(num_frames), make_clip()
    parts: list[slice] = []
    whole = InternVideo2Guide(model, (0, 2), num_frames=4, dtype=torch.float64)
    single = InternVideo2Guide(model, (0, 2), num_frames=4, dtype=torch.float64, clips_at_once=1)
    alive: list[weakref.ref[Tensor]] = []
    observe = single.observe

    def watched(part: Tensor):
        assert all(feature() is None for feature in alive), "features of the part before are still there"
        seen = observe(part)
        alive[:] = [weakref.ref(layer) for layer in seen.layers]
        return seen

    single.observe = watched  # type: ignore[method-assign]

    def draw(attention: Tensor, part: slice) -> Tensor:
        parts.append(part)
        assert attention.shape == (part.stop - part.start, *GRID)
        return MASKS[2 * part.start : 2 * part.stop]

    visible, rows = observe_and_draw(single, clip, draw)
    assert parts == [slice(0, 1), slice(1, 2)] and torch.equal(visible, MASKS)
    assert all(feature() is None for feature in alive)
    for ours, expected in zip(rows.layers, whole.observe(clip).rows(MASKS).layers, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        assert ours.untyped_storage().nbytes() == ours.nbytes
    assert rows.pooled.shape == (2, 10)


def test_half_precision_keeps_a_wide_residual_stream() -> None:
    model, clip = make_model(1).float(), make_clip().float()
    exact = InternVideo2Guide(make_model(1), (2,), num_frames=4, dtype=torch.float64)
    seen_types = []
    model.blocks[2].register_forward_pre_hook(lambda module, args: seen_types.append(args[0].dtype))
    guide = InternVideo2Guide(model, (2,), num_frames=4)
    seen = guide.observe(clip)
    assert seen_types == [torch.float32] and seen.layers[0].dtype == torch.bfloat16
    assert seen.attention.dtype == torch.float32 and not seen.attention.requires_grad
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith("weight") and parameter.ndim > 1
        assert parameter.dtype == (torch.bfloat16 if is_matrix else torch.float32), name
    expected = exact.observe(clip.double())
    torch.testing.assert_close(seen.attention.double(), expected.attention, rtol=0.05, atol=1e-3)
    torch.testing.assert_close(seen.layers[0].double(), expected.layers[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_crops_are_seen_as_their_pixels(num_frames: int) -> None:
    """Also by a model of fewer frames, which sees them in groups."""
    frames = torch.randint(0, 256, (2, 4, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = crop_clips(list(frames), [0, 1], [(2, 3, 16, 24)] * 2, [False, False], (16, 24))
    guide = InternVideo2Guide(make_model(num_frames), (2,), num_frames=4, dtype=torch.float64)
    ours, expected = guide.observe(crops), guide.observe(frames[:, :, 2:18, 3:27], "BTHWC")
    torch.testing.assert_close(ours.attention, expected.attention, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.rows(MASKS).layers[0], expected.rows(MASKS).layers[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_no_host_sync(num_frames: int) -> None:
    guide = InternVideo2Guide(make_model(num_frames).float(), (0, 2), num_frames=4, clips_at_once=1)
    clip = torch.randint(0, 256, (2, 3, 4, 16, 24), dtype=torch.uint8)
    step = partial(observe_and_draw, guide, clip, lambda attention, part: MASKS[2 * part.start : 2 * part.stop])
    assert count(step, clip.device).syncs == 0


def test_a_student_learns_from_both_teachers() -> None:
    """Two masks a clip, one pass of each teacher; gradients reach the student and nothing else."""
    clip = torch.randint(0, 256, (2, 3, 8, 16, 24), dtype=torch.uint8)
    guide = InternVideo2Guide(make_model(1).float(), (1, 2), num_frames=4)
    video_config = VideoMAEConfig(24, 2, 2, 16, 2, num_frames=8, image_size=(16, 24), patch_size=8)
    video = VideoMAETeacher(Encoder(video_config), (0, 1))
    config = InternVideo2Config(32, 3, 4, num_frames=4, image_size=(16, 24), patch_size=8, pool_heads=2)
    heads = AlignmentHeads((1, 2), guide.dim, pooled_dim=guide.pooled_dim, video_layers=(1, 2), video_dim=video.dim)
    student = InternVideo2ForAlignment(config, heads)
    for teacher in (guide, video):
        teacher.check_grid(config.grid)
    half = clip[:, :, ::2]
    visible, rows = observe_and_draw(guide, half, lambda seen, part: MASKS[2 * part.start : 2 * part.stop])
    losses = student(half, visible, rows, video.rows(clip, visible))
    total = losses.image.mean() + losses.pooled + losses.video.mean()
    total.backward()
    assert 0 < total < 12 and all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for teacher in (guide, video) for p in teacher.model.parameters())


def test_internvl_c_at_its_published_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.9 billion parameters and feature rows of 3,200 numbers; shapes without values."""
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # looks at what it has drawn
    config = get_internvideo2_config("6b", num_frames=1, layer_scale=0.1)
    with FakeTensorMode():
        model = InternVideo2(config)
        guide = InternVideo2Guide(model, tuple(range(42, 48)), num_frames=8, name="InternVL-C")
        seen = guide.observe(torch.empty(1, 3, 8, 224, 224))
        rows = seen.rows(torch.empty(2, 416, dtype=torch.int64))
    assert guide.grid == (8, 16, 16) and seen.attention.shape == (1, 8, 16, 16)
    assert model.pos_embed.shape == (1, 257, 3200) and model.blocks[0].mlp.fc1.weight.shape == (12800, 3200)
    assert [layer.shape for layer in rows.layers] == [(2, 417, 3200)] * 6 and rows.pooled.shape == (1, 768)
    assert all(layer.dtype == torch.bfloat16 for layer in (*seen.layers, *rows.layers))
    parameters = sum(prod(p.shape) for p in model.parameters())
    assert 5.90e9 < parameters < 5.95e9 and sum(p.nbytes for p in model.parameters()) < 2.001 * parameters
    assert guide.clips_at_once == 5


def test_errors_name_what_came() -> None:
    with pytest.raises(ValueError, match="teacher small has no attention pool"):
        InternVideo2Guide(InternVideo2(make_model(1).config, pool=False), (0,), name="small")
    with pytest.raises(
        ValueError, match="num_frames must be a multiple of the 4 frames of teacher InternVideo2, got 6"
    ):
        InternVideo2Guide(make_model(4), (0,), num_frames=6)
    guide = InternVideo2Guide(make_model(1), (0,), num_frames=4, dtype=torch.float64)
    with pytest.raises(ValueError, match="T=4"):
        guide.observe(make_clip()[:, :, :3])
    with pytest.raises(ValueError, match="M masks of one token or more for each of 2 clips, got shape \\(3, 4\\)"):
        guide.observe(make_clip()).rows(MASKS[:3])
