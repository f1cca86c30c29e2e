"""The aligned student: losses of each head, several masks of a clip, what is read and computed, errors."""

import copy
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.models.test_internvideo2 import HEADS, TINY, clip_for, student, sum_of
from videomae_fast.models import (
    AlignmentHeads,
    AlignmentLosses,
    InternVideo2ForAlignment,
    TeacherRows,
    stochastic_depth,
)
from videomae_kernels import crop_clips

MASKS, KEPT = 3, 7


def masks(batch: int = 2, masks_per_clip: int = MASKS, kept: int = KEPT) -> Tensor:
    torch.manual_seed(2)
    return torch.stack([torch.randperm(24)[:kept].sort().values for _ in range(batch * masks_per_clip)])


def teachers(
    heads: AlignmentHeads = HEADS, batch: int = 2, masks_per_clip: int = MASKS, rows: int = KEPT + 1
) -> tuple[TeacherRows, TeacherRows]:
    torch.manual_seed(3)
    wide = torch.float64
    count = batch * masks_per_clip
    image = tuple(torch.randn(count, rows, heads.image_dim, dtype=wide) for _ in heads.image_layers)
    video = tuple(torch.randn(count, KEPT, heads.video_dim, dtype=wide) for _ in heads.video_layers)
    pooled = None if heads.pooled_dim is None else torch.randn(batch, heads.pooled_dim, dtype=wide)
    return TeacherRows(image, pooled), TeacherRows(video)


def lower(rows: TeacherRows, dtype: torch.dtype) -> TeacherRows:
    pooled = None if rows.pooled is None else rows.pooled.to(dtype)
    return TeacherRows(tuple(layer.to(dtype) for layer in rows.layers), pooled)


def total(losses: AlignmentLosses) -> Tensor:
    parts = [part.sum() for part in (losses.image, losses.pooled, losses.video) if part is not None]
    return torch.stack(parts).sum()


def flat(losses: AlignmentLosses) -> Tensor:
    return torch.cat([part.reshape(-1) for part in (losses.image, losses.pooled, losses.video) if part is not None])


def test_the_losses_of_the_tokens() -> None:
    """Each head reads the rows after its block with their positions; the pooled row has none."""
    model, clip, visible = student(), clip_for(), masks()
    image, video = teachers()
    losses = model(clip, visible, image, video)
    rows: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: rows.append(sum_of(out))) for block in model.blocks]
    pooled = model.features(clip.repeat_interleave(MASKS, 0), visible)
    for hook in hooks:
        hook.remove()

    def loss(head: Any, x: Tensor, target: Tensor) -> Tensor:
        y = F.normalize(F.layer_norm(head.head(x), target.shape[-1:], head.norm.weight, head.norm.bias, 1e-5), dim=-1)
        return (2 - 2 * (y * F.normalize(target, dim=-1)).sum(-1)).mean()

    of_tokens, of_cls = model.clip_pos_embed[0, 1:][visible], model.clip_pos_embed[:, :1].expand(6, -1, -1)
    position = torch.cat([of_cls, of_tokens], dim=1)
    assert losses.image is not None and losses.video is not None and losses.pooled is not None
    for j, layer in enumerate(HEADS.image_layers):
        expected = loss(model.clip_decoder[j], rows[layer] + position, image.layers[j])
        torch.testing.assert_close(losses.image[j], expected, rtol=1e-12, atol=1e-12)
    for j, layer in enumerate(HEADS.video_layers):
        x = rows[layer][:, 1:] + model.mae_pos_embed[0][visible]
        torch.testing.assert_close(
            losses.video[j], loss(model.mae_decoder[j], x, video.layers[j]), rtol=1e-12, atol=1e-12
        )
    assert image.pooled is not None
    expected = loss(model.final_clip_decoder, pooled, image.pooled.repeat_interleave(MASKS, 0))
    torch.testing.assert_close(losses.pooled, expected, rtol=1e-12, atol=1e-12)
    assert losses.pooled.shape == () and losses.image.shape == losses.video.shape == (2,)


@pytest.mark.parametrize("recompute", ["always", "never"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cls", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_masks_of_one_clip_are_as_clips_of_their_own(cls: bool, checkpointing: bool, recompute: str) -> None:
    """Losses are the means of those of each mask alone, and so is every gradient."""
    model = student(replace(TINY, activation_checkpointing=checkpointing, recompute=recompute))
    clip, visible = clip_for(), masks()
    image, video = teachers(rows=KEPT + cls)
    together = model(clip, visible, image, video)
    found = torch.autograd.grad(total(together), list(model.parameters()))
    alone, expected = torch.zeros_like(flat(together)), [torch.zeros_like(p) for p in model.parameters()]
    for m in range(MASKS):
        one = slice(m, None, MASKS)
        losses = model(
            clip,
            visible[one],
            TeacherRows(tuple(layer[one] for layer in image.layers), image.pooled),
            TeacherRows(tuple(layer[one] for layer in video.layers)),
        )
        alone += flat(losses).detach() / MASKS
        for sum_, grad in zip(expected, torch.autograd.grad(total(losses), list(model.parameters())), strict=True):
            sum_ += grad / MASKS
    torch.testing.assert_close(flat(together), alone, rtol=1e-12, atol=1e-12)
    for (name, _), mine, wanted in zip(model.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12, msg=name)


def test_only_visible_pixels_and_teachers_rows_are_read() -> None:
    model, clip, visible = student(), clip_for(), masks(masks_per_clip=1)
    image, video = teachers(masks_per_clip=1)
    expected = flat(model(clip, visible, image, video))
    tubes = clip.unflatten(3, (2, 8)).unflatten(5, (3, 8)).clone()
    hidden = torch.ones(2, 24, dtype=torch.bool).scatter(1, visible, False).view(2, 4, 2, 3)
    tubes[hidden[:, None, :, :, None, :, None].expand_as(tubes)] = math.nan
    assert torch.equal(flat(model(tubes.flatten(5).flatten(3, 4), visible, image, video)), expected)
    order = visible.flip(1).int()
    turned = [tuple(torch.cat([x[:, :-KEPT], x[:, -KEPT:].flip(1)], 1) for x in t.layers) for t in (image, video)]
    again = flat(model(clip, order, TeacherRows(turned[0], image.pooled), TeacherRows(turned[1])))
    torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-12)


def test_every_way_to_give_a_clip() -> None:
    """uint8, its layout, and crops; a strided view of every second frame."""
    model, visible = student().float(), masks(masks_per_clip=1)
    image, video = (lower(rows, torch.float32) for rows in teachers(masks_per_clip=1))
    frames = torch.randint(0, 256, (2, 8, 16, 24, 3), dtype=torch.uint8)
    mean, std = torch.tensor(TINY.pixel_mean), torch.tensor(TINY.pixel_std)
    clip = ((frames / 255 - mean) / std).permute(0, 4, 1, 2, 3)[:, :, ::2]
    expected = flat(model(clip, visible, image, video))
    raw = flat(model(frames[:, ::2], visible, image, video, layout="BTHWC"))
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4)
    cropped = crop_clips(list(frames[:, ::2]), [0, 1], [(0, 0, 16, 24)] * 2, [False] * 2, (16, 24))
    torch.testing.assert_close(flat(model(cropped, visible, image, video)), raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "heads",
    [
        AlignmentHeads((2,), image_dim=24, pooled_dim=None),
        AlignmentHeads(pooled_dim=18),
        AlignmentHeads(pooled_dim=None, video_layers=(0, 2), video_dim=36),
        AlignmentHeads((1, 2), image_dim=24, image_mlp=True, pooled_dim=18),
    ],
    ids=["image", "pooled", "video", "distillation"],
)
def test_every_parameter_is_trained_whatever_the_heads(heads: AlignmentHeads) -> None:
    model, (image, video) = student(heads=heads), teachers(heads)
    given = image if heads.image_layers or heads.pooled_dim else None, video if heads.video_layers else None
    losses = model(clip_for(), masks(), *given)
    assert [part is not None for part in (losses.image, losses.pooled, losses.video)] == [
        bool(heads.image_layers),
        heads.pooled_dim is not None,
        bool(heads.video_layers),
    ]
    total(losses).backward()
    without_effect = ("clip_projector.norm1_k.bias", "clip_projector.cross_attn.k_bias")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (name in without_effect or parameter.grad.any()), name


def test_the_cls_row_of_the_last_block_is_not_computed_for_nothing() -> None:
    """Its query, output, MLP and head, of each mask; attention itself is not counted on a CPU."""
    heads = AlignmentHeads((2,), image_dim=24, pooled_dim=None)
    config, totals = replace(TINY, mlp_ratio=4.0), []
    model = student(config, heads)
    for rows in (KEPT, KEPT + 1):
        image, _ = teachers(heads, rows=rows)
        with FlopCounterMode(display=False) as counter:
            model(clip_for(), masks(), image, None)
        totals.append(counter.get_total_flops())
    per_row = 2 * 48 * (2 * 48 + 2 * 192 + 24)
    assert totals[1] - totals[0] == 2 * MASKS * per_row


def test_stochastic_depth_is_drawn_for_each_mask() -> None:
    model = student(replace(TINY, drop_path=0.6)).train()
    clip, visible, (image, video) = clip_for(), masks(), teachers()
    sample = torch.arange(2).repeat_interleave(MASKS) * MASKS + torch.arange(MASKS).repeat(2)

    def losses(skip: bool, step: int) -> Tensor:
        with stochastic_depth(seed=1, step=step, sample=sample, skip=skip):
            return flat(model(clip, visible, image, video))

    skipped, multiplied = losses(True, 0), losses(False, 0)
    torch.testing.assert_close(skipped, multiplied, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(skipped, losses(True, 1))
    with pytest.raises(ValueError, match="the batch has 6"), stochastic_depth(seed=1, step=0, sample=sample[:2]):
        model(clip, visible, image, video)


@pytest.mark.slow
def test_it_compiles_as_one_graph() -> None:
    model, inputs = student(), (clip_for(), masks(), *teachers())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(flat(compiled(*inputs)), flat(model(*inputs)), rtol=1e-12, atol=1e-12)


def test_the_gradients_of_the_heads_positions_are_summed_in_float32() -> None:
    """A sum of 600 ones in bfloat16 stops at 256."""
    model, visible = student().float(), torch.zeros(600, 1, dtype=torch.int64)
    image, video = (
        TeacherRows((torch.zeros(600, 2, 1),) * len(layers)) for layers in (HEADS.image_layers, HEADS.video_layers)
    )
    for (_, position), table in (
        (model._image_heads(image, visible, torch.bfloat16), model.clip_pos_embed),
        (model._video_heads(video, visible, torch.bfloat16), model.mae_pos_embed),
    ):
        assert position is not None and position.dtype == torch.bfloat16
        position.backward(torch.ones_like(position))
        assert table.grad is not None and table.grad[0, :, 0].unique().tolist() == [0, 600]


def test_bfloat16_autocast_is_near() -> None:
    exact = student()
    clip, visible, (image, video) = clip_for(), masks(), teachers()
    expected = flat(exact(clip, visible, image, video))
    model = copy.deepcopy(exact).float()
    low = [lower(rows, torch.bfloat16) for rows in (image, video)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = flat(model(clip.float(), visible, *low))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=0.02, atol=0.02)
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "heads, message",
    [
        (dict(pooled_dim=None), "must have image_layers, video_layers or pooled_dim"),
        (dict(image_layers=(2, 1)), r"image_layers must be ascending block numbers from 0, got \(2, 1\)"),
        (dict(video_layers=(1,), video_dim=0), "video_dim must be positive, got 0"),
        (dict(image_layers=(3,)), r"must be below encoder_depth 3, got \(3,\)"),
        (dict(image_layers=(1,), pooled_dim=None), "no head reads the blocks after 1, and encoder_depth is 3"),
    ],
    ids=str,
)
def test_errors_of_heads(heads: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InternVideo2ForAlignment(TINY, AlignmentHeads(**heads))


def test_layers_of_heads_are_integers() -> None:
    for layers in ((0.0, 2.0), (True, 2)):
        with pytest.raises(TypeError, match=r"video_layers must be integers, got \("):
            AlignmentHeads(video_layers=layers)


def test_errors_of_inputs() -> None:
    model, clip, visible, (image, video) = student(), clip_for(), masks(), teachers()
    with pytest.raises(ValueError, match=re.escape("visible must be (B·M, K) with M masks of one token or more")):
        model(clip, visible[:5], image, video)
    with pytest.raises(ValueError, match="T=4 as the model was built for"):
        model(clip[:, :, :2], visible, image, video)
    with pytest.raises(ValueError, match="video must be the TeacherRows of 2 layers"):
        model(clip, visible, image, None)
    with pytest.raises(ValueError, match="image must have 2 layers, one for each head of the model, got 1"):
        model(clip, visible, TeacherRows(image.layers[:1], image.pooled), video)
    with pytest.raises(ValueError, match=re.escape("image.pooled must have the shape (2, 18), got None")):
        model(clip, visible, TeacherRows(image.layers), video)
    with pytest.raises(
        ValueError, match=re.escape("video.layers must all have the shape (6, 7, 36), got [(6, 8, 36)]")
    ):
        model(clip, visible, image, TeacherRows(tuple(F.pad(x, (0, 0, 1, 0)) for x in video.layers)))
    with pytest.raises(ValueError, match="must all have the shape"):
        model(clip, visible, TeacherRows((image.layers[0], image.layers[1][:, 1:]), image.pooled), video)
