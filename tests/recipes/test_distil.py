"""Distillation: its loss by plain formulas, a teacher that only computes, and a student that comes to agree with it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.recipes import taught, tiny
from videomae_fast.cli import main
from videomae_fast.engine.log import read_log
from videomae_fast.interop import read_classifier
from videomae_fast.models import VideoMAEForClassification
from videomae_fast.recipes.distil import DistilConfig, Distillation, distil, distillation_loss


def plain_loss(student: Tensor, teacher: Tensor, tau: float) -> float:
    """One clip and class at a time."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(x / tau) for x in logits] for logits in (t, s))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return tau**2 * total / len(student)


def random_logits(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (5, 710)], ids=str)
def test_the_loss_is_the_plain_formula(shape: tuple[int, int], tau: float) -> None:
    student, teacher = random_logits(shape, 0), random_logits(shape, 1)
    assert distillation_loss(student, teacher, tau).item() == pytest.approx(
        plain_loss(student, teacher, tau), rel=1e-12
    )
    single = distillation_loss(student.float(), teacher.half(), tau)
    assert single.dtype == torch.float32
    exact = plain_loss(student.float(), teacher.half(), tau)
    assert single.item() == pytest.approx(exact, rel=2e-6)
    assert distillation_loss(teacher, teacher, tau).item() == pytest.approx(0, abs=1e-15)


def test_with_temperature_1_it_is_cross_entropy_without_the_teachers_entropy() -> None:
    student, teacher = random_logits((6, 11), 0), random_logits((6, 11), 1)
    p = teacher.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher), F.cross_entropy(student, p) - entropy)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_gradients(tau: float) -> None:
    student, teacher = random_logits((3, 5), 0).requires_grad_(), random_logits((3, 5), 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: distillation_loss(s, teacher, tau), student)
    (grad,) = torch.autograd.grad(distillation_loss(student, teacher, tau), student)
    torch.testing.assert_close(grad, tau * ((student / tau).softmax(1) - (teacher / tau).softmax(1)) / 3)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(distillation_loss(student, teacher, tau), teacher)


@pytest.mark.parametrize("logits", [1e4, -1e4, 6e4])
def test_large_logits(logits: float) -> None:
    """A certain teacher is no NaN: float16 holds up to 65504."""
    teacher = torch.tensor([[logits, 0.0, 1.0]]).half()
    student = torch.zeros(1, 3, requires_grad=True)
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3) if logits > 0 else math.log(3) - 0.5822, abs=1e-3)
    assert student.grad is not None and student.grad.isfinite().all()


def test_errors_of_the_loss() -> None:
    with pytest.raises(ValueError, match=r"logits \(B, C\) alike, got \(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        DistilConfig.from_options(temperature=0)
    with pytest.raises(ValueError, match=r"label_weight must not be negative, got -1\.0"):
        DistilConfig.from_options(label_weight=-1)


def prepared(config: DistilConfig) -> tuple[Distillation, VideoMAEForClassification, torch.optim.Optimizer, Any]:
    """The recipe, its student and optimizer, and the batches of two steps."""
    recipe = Distillation(config)
    torch.manual_seed(config.run.seed)
    model, optimizer = recipe.build(torch.device("cpu"), print)
    assert isinstance(model, VideoMAEForClassification)
    return recipe, model, optimizer, recipe.batches(0, 1, 0, 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.0, "label_weight": 0.3}, {"mixup": 0, "cutmix": 0, "rand_augment": "", "erasing": 0}],
    ids=str,
)
def test_a_step(options: dict[str, Any], colors: Path, teacher: Path, tmp_path: Path) -> None:
    """The teacher sees the student's tensor. It has no gradient, no optimizer slot, and drops no branches."""
    recipe, model, optimizer, batches = prepared(taught.settings(colors, teacher, tmp_path, **options))
    (item,) = recipe.parts(next(batches), 1, torch.device("cpu"))
    part = item.part
    assert recipe.teacher is not None
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters()}
    assert not any(parameter.requires_grad for parameter in recipe.teacher.model.parameters())
    assert not any(module.training for module in recipe.teacher.model.modules())
    assert item.teacher.dtype == torch.float16 and not item.teacher.requires_grad
    assert torch.equal(item.teacher, recipe.teacher(part.clips))  # again the same: nothing is dropped
    with torch.no_grad():
        plain = read_classifier(teacher).build().eval()(part.clips)
    torch.testing.assert_close(item.teacher.float(), plain, rtol=2**-11, atol=1e-4)
    loss, numbers = recipe.step(model, item, 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in recipe.teacher.model.parameters())
    distillation = recipe.config.distillation
    logits = recipe.logits(model, part, 0).detach()
    expected = kl = plain_loss(logits.double(), item.teacher.double(), distillation.temperature)
    expected += distillation.label_weight * F.cross_entropy(logits, part.targets).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert numbers["kl"].item() == pytest.approx(kl, rel=1e-5)
    assert numbers["agreement"].item() == (logits.argmax(1) == item.teacher.argmax(1)).float().mean()
    batches.close()


def test_parts_add_up_to_the_batch(colors: Path, teacher: Path, tmp_path: Path) -> None:
    """With mixtures, so that every part has clips of another part in it."""
    config = taught.settings(colors, teacher, tmp_path, label_weight=0.5)
    recipe, model, _, batches = prepared(config)
    batch = next(batches)
    (whole,) = recipe.parts(batch, 1, torch.device("cpu"))
    halves = list(recipe.parts(batch, 2, torch.device("cpu")))
    torch.testing.assert_close(torch.cat([half.teacher for half in halves]), whole.teacher, rtol=2e-3, atol=1e-4)
    expected, numbers = recipe.step(model, whole, 0)
    found = [recipe.step(model, half, 0) for half in halves]
    torch.testing.assert_close(sum(loss for loss, _ in found), expected, rtol=1e-4, atol=1e-6)
    for name in recipe.numbers:
        torch.testing.assert_close(sum(each[name] for _, each in found), numbers[name], rtol=1e-4, atol=1e-6)
    batches.close()


def test_a_teacher_of_other_patches_shares_the_pixels(colors: Path, tmp_path: Path) -> None:
    teacher = taught.make_teacher(tmp_path / "teacher", colors, patch_size=8, tubelet_size=4)
    for mixing in ({}, {"mixup": 0, "cutmix": 0, "rand_augment": "", "erasing": 0}):
        recipe, model, _, batches = prepared(taught.settings(colors, teacher, tmp_path, **mixing))
        (item,) = recipe.parts(next(batches), 1, torch.device("cpu"))
        assert recipe.teacher is not None
        assert (recipe.teacher.model.config.patch, model.config.patch) == ((4, 8, 8), (2, 16, 16))
        assert recipe.step(model, item, 0)[0].isfinite()
        batches.close()


def test_a_gpu_counts_the_weights_of_the_teacher(
    colors: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it decides about recomputation."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr("videomae_fast.recipes.finetune.fit_to_device", lambda c, *_, **o: asked.update(o) or c)
    recipe = Distillation(taught.settings(colors, teacher, tmp_path, precision="bf16"))
    recipe.build(torch.device("cpu"), lambda line: None)
    assert asked["teachers"] == 2 * sum(tensor.numel() for tensor in recipe.classifier.state.values()) > 0


def agreement(student: Path, teacher: Path, videos: Path) -> float:
    clips, _ = taught.views(videos)
    with torch.no_grad():
        first, second = (read_classifier(path).build().eval()(clips).argmax(1) for path in (student, teacher))
    return (first == second).float().mean().item()


def test_the_student_comes_to_agree(colors: Path, teacher: Path, tmp_path: Path) -> None:
    """On videos that it has not seen, after two epochs; and it continues exactly."""
    held_out = taught.write_colors(tmp_path / "held_out", 12, seed=5)
    options: dict[str, Any] = {"batch_size": 1, "rand_augment": "", "eval_data": str(held_out), "eval_every": 13}
    config = taught.settings(colors, teacher, tmp_path / "run", **options)
    first = distil(config.with_options(max_steps=1))
    before = agreement(first.checkpoint, teacher, held_out)
    result = distil(config.with_options(resume=True))
    after = agreement(result.checkpoint, teacher, held_out)
    assert result.step == 26 and before < 0.7 and after > 0.9, (before, after)
    rows = read_log(tmp_path / "run")
    assert all(float(row["kl"]) == float(row["loss"]) for row in rows)
    assert sum(float(row["loss"]) for row in rows[-6:]) < sum(float(row["loss"]) for row in rows[:6])
    distil(config.with_options(output=str(tmp_path / "whole")))
    assert tiny.losses(tmp_path / "whole") == tiny.losses(tmp_path / "run")
    assert json.loads((result.checkpoint / "classes.json").read_text()) == list(taught.COLORS)


def test_a_run_continues_with_its_teacher_only(colors: Path, teacher: Path, tmp_path: Path) -> None:
    config = taught.settings(colors, teacher, tmp_path / "run", max_steps=1)
    distil(config)
    moved = teacher.rename(tmp_path / "moved")
    distil(config.with_options(teacher=str(moved), resume=True, max_steps=2))
    other = taught.make_teacher(tmp_path / "other", colors, tubelet_size=4)
    with pytest.raises(ValueError, match=r"a run continues with the videos and the order it began with.*'teacher'"):
        distil(config.with_options(teacher=str(other), resume=True, max_steps=3))
    with pytest.raises(ValueError, match=r"temperature: was 1\.0, now 2\.0"):
        distil(config.with_options(teacher=str(moved), resume=True, temperature=2))


def test_the_command(colors: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = taught.settings(colors, teacher, tmp_path / "run", max_steps=2)
    config.save(tmp_path / "config.json")
    command = ["distil", "--config", str(tmp_path / "config.json"), "--label-weight", "0.1"]
    assert main([*command, "--cache-logits", str(tmp_path / "logits")]) == 0
    out = capsys.readouterr().out
    assert f"teacher logits of 0 of 2 steps are in {tmp_path / 'logits'}" in out
    assert f"weights, in the published layout: {tmp_path}" in out and (tmp_path / "run" / "curves.png").is_file()
    assert main([*command, "--teacher", "", "--output", str(tmp_path / "other")]) == 2
    assert "error: teacher is empty: name the weights of a classifier, or a run" in capsys.readouterr().err
