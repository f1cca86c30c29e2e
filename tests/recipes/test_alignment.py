"""Alignment: what a step computes, with every kind of teacher, and runs that learn, continue and evaluate."""

import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import aligned, tiny
from videomae_fast.cli import main
from videomae_fast.data import ClipBatch
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import read_feature_model
from videomae_fast.models import (
    INTERNVIDEO2_CONFIGS,
    InternVideo2,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2Guide,
    VideoMAETeacher,
    get_internvideo2_config,
)
from videomae_fast.models.memory_budget import AlignmentTokens
from videomae_fast.recipes.align import AlignConfig, Alignment, Part, align
from videomae_fast.recipes.align_teachers import Teachers, read_teachers

# Importing transformers takes longer than all the rest.
KINDS = ("video", "image", "both", "distil", pytest.param("huggingface", marks=pytest.mark.slow))
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("video", "image", "distil", "huggingface")]


@pytest.fixture(scope="module")
def teachers(aligners: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """The options of each kind of alignment."""
    options = {kind: {f"{kind}_teacher": str(path)} for kind, path in aligners.items()}
    return options | {"both": options["video"] | options["image"]}


@pytest.fixture
def of_kind(kind: str, teachers: dict[str, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """The options of one kind, also of a teacher of transformers."""
    if kind != "huggingface":
        return teachers[kind]
    pytest.importorskip("transformers")
    return {"image_teacher": str(aligned.make_huggingface_teacher(tmp_path / "huggingface"))}


def prepared(config: AlignConfig) -> tuple[Alignment, InternVideo2ForAlignment, torch.optim.Optimizer, list[ClipBatch]]:
    """The recipe, its student and optimizer, and the batches of two steps."""
    recipe = Alignment(config)
    torch.manual_seed(config.run.seed)
    model, optimizer = recipe.build(torch.device("cpu"), print)
    assert isinstance(model, InternVideo2ForAlignment)
    return recipe, model, optimizer, list(recipe.batches(0, 1, 0, 2))


def plain_loss(recipe: Alignment, model: InternVideo2ForAlignment, part: Part) -> dict[str, float]:
    """The losses of a part, one mask of one clip at a time."""
    losses: dict[str, list[float]] = {}
    count = part.visible.shape[0] // part.clips.shape[0]
    for row in range(part.visible.shape[0]):
        clip = part.clips[row // count : row // count + 1]
        image, video = (
            rows
            and type(rows)(
                tuple(layer[row : row + 1] for layer in rows.layers),
                None if rows.pooled is None else rows.pooled[row // count : row // count + 1],
            )
            for rows in (part.image, part.video)
        )
        found = model(clip, part.visible[row : row + 1], image, video)
        for name in recipe.numbers:
            losses.setdefault(name, []).append(getattr(found, name).double().mean().item())
    return {name: sum(values) / len(values) for name, values in losses.items()}


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("masks", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step(kind: str, masks: int, videos: Path, tmp_path: Path, of_kind: dict[str, Any]) -> None:
    """The student alone learns, from rows at its own tokens, and its losses are those of each mask by itself."""
    weights = {"image_weight": 0.5, "pooled_weight": 2.0, "video_weight": 3.0}
    config = aligned.settings(videos, tmp_path, masks_per_clip=masks, **weights, **of_kind)
    recipe, model, optimizer, batches = prepared(config)
    (part,) = recipe.parts(batches[0], 1, torch.device("cpu"))
    assert part.clips.shape == (4, 3, 4, 32, 32) and part.numbers.shape == (4 * masks,)
    kept = 16 - 8 if kind == "distil" else 4 * (4 - 2)
    assert part.visible.shape == (4 * masks, kept)
    in_frame = (part.visible // 4).reshape(4 * masks, 1, -1) == torch.arange(4)[:, None]
    assert kind == "distil" or (in_frame.sum(2) == 2).all()
    clips, (guide, video) = batches[0].clips, (recipe.teachers.guide, recipe.teachers.video)
    assert recipe.teachers.every == (1 if video is None else 2) and clips.shape[2] == 4 * recipe.teachers.every
    if video is not None:
        assert part.video is not None and _same(video.rows(clips, part.visible).layers, part.video.layers)
    if guide is not None:
        seen = guide.observe(clips.every(recipe.teachers.every))
        per = "clip" if kind == "distil" else "frame"
        drawn = config.masks.visible(seen.attention, batches[0].sample, per, seed=config.run.seed)
        assert torch.equal(drawn, part.visible)
        assert part.image is not None and _same(seen.rows(part.visible).layers, part.image.layers)
    loss, numbers = recipe.step(model, part, 0)
    expected = {"video": ("video",), "both": ("image", "pooled", "video")}.get(kind, ("image", "pooled"))
    assert recipe.numbers == expected
    with torch.no_grad():
        plain = plain_loss(recipe, model, part)
    assert {name: value.item() for name, value in numbers.items()} == pytest.approx(plain, rel=1e-4)
    assert loss.item() == pytest.approx(sum(weights[f"{name}_weight"] * plain[name] for name in plain), rel=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters()}
    for teacher in (guide, video):
        if teacher is not None:
            assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    undecayed = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_table = name in ("cls_token", "pos_embed", "clip_pos_embed", "mae_pos_embed")
        assert (id(parameter) in undecayed) == (is_table or parameter.ndim == 1), name


def test_tokens_of_two_frames(videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]]) -> None:
    """The student then sees all frames, as the video teacher; the image teacher sees the first of each token."""
    shared = teachers["both"] | {"num_frames": 8}
    recipe, model, _, batches = prepared(aligned.settings(videos, tmp_path, tubelet_size=2, **shared))
    (part,), clips = recipe.parts(batches[0], 1, torch.device("cpu")), batches[0].clips
    guide, video = recipe.teachers.guide, recipe.teachers.video
    assert guide is not None and video is not None and part.image is not None and part.video is not None
    assert part.clips.shape == clips.shape == (4, 3, 8, 32, 32) and part.visible.shape == (4, 4 * 2)
    with torch.no_grad():
        assert torch.equal(model.tokens(part.clips), model.tokens(clips))
    seen = guide.observe(clips.every(2))
    assert torch.equal(recipe.config.masks.visible(seen.attention, batches[0].sample, "frame", seed=3), part.visible)
    assert _same(seen.rows(part.visible).layers, part.image.layers)
    assert _same(video.rows(clips, part.visible).layers, part.video.layers)
    recipe.step(model, part, 0)[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"tubelet_size must divide the 2 frames of a token of .*, got 4"):
        prepared(aligned.settings(videos, tmp_path, tubelet_size=4, **teachers["video"] | {"num_frames": 16}))


@pytest.mark.parametrize("kind", ["both", *SLOW])
def test_two_masks_are_two_draws(kind: str, videos: Path, tmp_path: Path, of_kind: dict[str, Any]) -> None:
    """Losses and gradients of M = 2 are the mean of those of two samples of the same clip, drawn alone."""
    recipe, model, _, batches = prepared(aligned.settings(videos, tmp_path, masks_per_clip=2, **of_kind))
    (part,) = recipe.parts(batches[0], 1, torch.device("cpu"))
    expected, _ = recipe.step(model, part, 0)
    expected_grads = torch.autograd.grad(expected, list(model.parameters()))
    single, *_ = prepared(aligned.settings(videos, tmp_path, **of_kind))
    losses: list[Tensor] = []
    for mask in range(2):
        batch = batches[0]
        again = ClipBatch(batch.clips, 2 * batch.sample + mask)
        (alone,) = single.parts(again, 1, torch.device("cpu"))
        assert torch.equal(alone.visible, part.visible[mask::2])
        losses.append(single.step(model, alone, 0)[0])
    loss = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    for found, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_teachers_compute_in_the_precision_of_the_run(
    videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]]
) -> None:
    found = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        config = aligned.settings(videos, tmp_path, precision=precision, **teachers["both"])
        recipe, model, _, batches = prepared(config)
        assert recipe.teachers.video is not None and recipe.teachers.guide is not None
        for teacher in (recipe.teachers.video.model, recipe.teachers.guide.model):
            assert teacher.blocks[0].mlp.fc1.weight.dtype == dtype  # type: ignore[index, union-attr]
        (part,) = recipe.parts(batches[0], 1, torch.device("cpu"))
        assert part.image is not None and part.video is not None
        assert {rows.dtype for rows in (*part.image.layers, *part.video.layers)} == {dtype}
        found[precision] = recipe.step(model, part, 0)[0].item()
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.01)
    assert found["bf16"] != found["fp32"]


def test_parts_add_up_to_the_batch(videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]]) -> None:
    config = aligned.settings(videos, tmp_path, masks_per_clip=2, drop_path=0.5, **teachers["both"])
    recipe, model, _, batches = prepared(config)
    (whole,) = recipe.parts(batches[0], 1, torch.device("cpu"))
    parts = list(recipe.parts(batches[0], 4, torch.device("cpu")))
    assert torch.equal(torch.cat([part.visible for part in parts]), whole.visible)
    expected, numbers = recipe.step(model, whole, 3)
    found = [recipe.step(model, part, 3) for part in parts]
    torch.testing.assert_close(sum(loss for loss, _ in found), expected, rtol=1e-5, atol=0)
    for name in recipe.numbers:
        torch.testing.assert_close(sum(each[name] for _, each in found), numbers[name], rtol=1e-5, atol=0)


def test_rows_of_a_part_are_gone_before_the_teachers_see_the_next(
    videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[weakref.ref[Tensor]]] = []
    call = Teachers.__call__

    def watched(self: Teachers, *given: Any) -> Any:
        alive.append(sum(row() is not None for rows in seen for row in rows))
        lesson = call(self, *given)
        seen.append([weakref.ref(row) for row in (*lesson.image.layers, lesson.image.pooled, *lesson.video.layers)])
        return lesson

    alive: list[int] = []
    monkeypatch.setattr(Teachers, "__call__", watched)
    align(aligned.settings(videos, tmp_path / "run", **teachers["both"], accumulate=2, batch_size=2, max_steps=2))
    assert len(seen) == 4 and seen[0] and alive == [0] * 4


@pytest.mark.parametrize("kind", ["both", *SLOW])
def test_the_loss_falls_and_a_run_continues_exactly(
    kind: str, videos: Path, tmp_path: Path, of_kind: dict[str, Any]
) -> None:
    config = aligned.settings(videos, tmp_path / "run", epochs=7, masks_per_clip=2, drop_path=0.1, **of_kind)
    align(config.with_options(max_steps=3))
    result = align(config.with_options(resume=True))
    losses = tiny.losses(tmp_path / "run")
    assert len(losses) == result.step == 14 and sum(losses[-4:]) < 0.8 * sum(losses[:4])
    names = {"video": ("video",), "both": ("image", "pooled", "video")}.get(kind, ("image", "pooled"))
    for row in read_log(tmp_path / "run"):
        assert sum(float(row[name]) for name in names) == pytest.approx(float(row["loss"]), rel=1e-5)
    align(config.with_options(output=str(tmp_path / "whole"), max_steps=5))
    assert tiny.losses(tmp_path / "whole") == losses[:5]


def test_a_gpu_decides_about_recomputation(
    videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice counts the student's step, the average of its weights, and the teachers' weights."""
    asked: dict[str, Any] = {}

    def choose(config: InternVideo2Config, tokens: AlignmentTokens, **options: Any) -> str:
        asked.update(options, tokens=tokens)
        return "never"

    def on_cpu(*args: Any, device: torch.device, **options: Any) -> Teachers:
        return read_teachers(*args, device=torch.device("cpu"), **options)

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=7 * 2**30))
    monkeypatch.setattr("videomae_fast.recipes.fit.activate_flash_attention", lambda device: "FA4")
    monkeypatch.setattr("videomae_fast.recipes.fit.choose_recompute", choose)
    monkeypatch.setattr("videomae_fast.recipes.align.read_teachers", on_cpu)
    options = {"masks_per_clip": 3, "crops_per_video": 2, "accumulate": 2, "ema_decay": 0.5, "precision": "fp32"}
    recipe = Alignment(aligned.settings(videos, tmp_path, **options, **teachers["both"]))
    said: list[str] = []
    model, _ = recipe.build(torch.device("cuda"), said.append)
    assert said[-1] == "attention runs on FA4"
    assert model.config == replace(recipe.config.model_config(), recompute="never")
    guide, video = recipe.teachers.guide, recipe.teachers.video
    assert isinstance(guide, InternVideo2Guide) and isinstance(video, VideoMAETeacher)
    fixed = (video.model.config.num_tokens + len(video.model.blocks)) * video.dim  # positions, and biases of keys
    numbers = fixed + sum(each.numel() for teacher in (guide, video) for each in teacher.model.state_dict().values())
    assert asked == {
        "tokens": AlignmentTokens(recipe.teachers.heads, visible=8, masks_per_clip=3),
        "clips": 4 * 2,
        "precision": "fp32",
        "capacity_bytes": 7 * 2**30,
        "accumulate": 2,
        "copies": 1,
        "teachers": 4 * numbers,
    }


def test_evaluation(videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]]) -> None:
    """The mean over the videos of the list, whatever the batches; with --ema-decay it is that of the average."""
    options = teachers["both"] | {"eval_data": str(videos), "eval_every": 2, "max_steps": 2}
    align(aligned.settings(videos, tmp_path / "one", **options))
    rows = read_log(tmp_path / "one", EVALUATIONS)
    assert [row["step"] for row in rows] == ["2"]
    parts = [float(rows[0][name]) for name in ("image", "pooled", "video")]
    assert float(rows[0]["loss"]) == pytest.approx(sum(parts), rel=1e-6)
    result = align(aligned.settings(videos, tmp_path / "two", ema_decay=0.5, **options))
    assert (result.checkpoint / "model_ema.safetensors").is_file()
    averaged = read_log(tmp_path / "two", EVALUATIONS)
    assert tiny.losses(tmp_path / "one") == tiny.losses(tmp_path / "two")
    assert averaged[0]["loss"] != rows[0]["loss"]


def test_the_student_begins_alike_with_every_teacher(
    videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]]
) -> None:
    """What reading the teachers draws is not drawn from the generator of the student."""
    state = {}
    for kind in ("video", "both"):
        state[kind] = prepared(aligned.settings(videos, tmp_path, **teachers[kind]))[1].state_dict()
    assert torch.equal(state["video"]["patch_embed.proj.weight"], state["both"]["patch_embed.proj.weight"])


def test_a_run_begins_with_the_weights_of_another(
    videos: Path,
    tmp_path: Path,
    teachers: dict[str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", get_internvideo2_config("small", encoder_depth=1))
    first = align(aligned.settings(videos, tmp_path / "first", max_steps=2, **teachers["both"]))
    encoder = read_feature_model(
        first.checkpoint
    )  # of the clips that config.json tells: the student's, not the teachers'
    assert isinstance(encoder, InternVideo2) and encoder.config.grid == (4, 2, 2)
    init = {"init": str(tmp_path / "first")}
    align(aligned.settings(videos, tmp_path / "second", max_steps=1, **init, **teachers["both"]))
    assert f"all weights are from {first.checkpoint}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"unexpected: clip_decoder\.0.*clip_pos_embed.*23 in all"):
        align(aligned.settings(videos, tmp_path / "third", max_steps=1, **init, **teachers["video"]))


def test_the_command(
    videos: Path, tmp_path: Path, teachers: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config = aligned.settings(videos, tmp_path / "run", max_steps=2, **teachers["video"])
    config.save(tmp_path / "config.json")
    assert main(["align", "--config", str(tmp_path / "config.json"), "--masks-per-clip", "2"]) == 0
    out = capsys.readouterr().out
    assert "no teacher guides the masks: they are uniform in each frame" in out
    assert "of its blocks, 1 teaches 0, 2 teaches 1 of the student" in out
    assert "at step 2\n" in out and "weights, in the published layout: " in out
    assert (tmp_path / "run" / "curves.png").is_file()
    assert (
        main(["align", "--data", str(videos), "--output", str(tmp_path / "other"), "--model", "internvideo2-tiny"]) == 2
    )
    assert "error: there is no teacher: name one with image_teacher, video_teacher or" in capsys.readouterr().err
