"""Fine-tuning: parts of a batch, what is trained, resume, and what a checkpoint holds."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.recipes import tiny
from videomae_fast.data.augment import clean_clips
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import load_published, read_classifier
from videomae_fast.models import VideoMAEForClassification
from videomae_fast.recipes.finetune import FinetuneConfig, Finetuning, Part, finetune
from videomae_fast.recipes.views import EvaluationViews
from videomae_kernels import changed_token_index

CPU = torch.device("cpu")


def _recipe(config: FinetuneConfig) -> tuple[Finetuning, VideoMAEForClassification, Any]:
    recipe = Finetuning(config)
    torch.manual_seed(0)
    model, optimizer = recipe.build(CPU, print)
    assert isinstance(model, VideoMAEForClassification)
    return recipe, model, optimizer


def _loss_and_gradients(recipe: Finetuning, model: Any, parts: list[Part]) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    losses = []
    for part in parts:
        loss, _ = recipe.step(model, part, 5)
        loss.backward()
        losses.append(loss.item())
    return sum(losses), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        tiny.PLAIN,
        {"drop_path": 0.4},
        tiny.PLAIN | {"drop_tokens": "random:0.5"},
        {"drop_tokens": "changed:0.5"},
        {"augment": "pillow"},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items())[-30:],
)
@pytest.mark.parametrize("count", [2, 4])
def test_parts_are_one_batch(count: int, options: dict[str, Any], labelled: Path, tmp_path: Path) -> None:
    """Clips, tokens and targets are those of the batch; losses and gradients add up, in float64."""
    changes = {"batch_size": 4 // count, "accumulate": count, "init_scale": 1.0, **options}
    recipe, model, _ = _recipe(tiny.finetuning(labelled, tmp_path, **changes))
    model.double().train()
    batch = next(recipe.batches(0, 1, 0, 1))
    (whole,) = recipe.parts(batch, 1, CPU)
    parts = recipe.parts(batch, count, CPU)
    for name in ("targets", "numbers"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    if isinstance(whole.clips, Tensor):
        assert torch.equal(torch.cat([part.clips for part in parts]), whole.clips)
    noise = torch.randn(8, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = _loss_and_gradients(recipe, model, [whole._replace(clips=noise)])
    clips = noise.chunk(count)
    found = _loss_and_gradients(recipe, model, [p._replace(clips=c) for p, c in zip(parts, clips, strict=True)])
    assert found[0] == pytest.approx(expected[0], rel=1e-6)  # of targets and logits in float32
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert (mine - theirs).norm() <= 1e-5 * max(1e-3, float(theirs.norm()))


def test_a_run_is_that_with_larger_batches(labelled: Path, tmp_path: Path) -> None:
    """With all augmentation: a mixture is drawn for the whole batch."""
    finetune(tiny.finetuning(labelled, tmp_path / "whole", batch_size=4, epochs=2))
    finetune(tiny.finetuning(labelled, tmp_path / "parts", batch_size=1, accumulate=4, epochs=2))
    assert tiny.losses(tmp_path / "parts") == pytest.approx(tiny.losses(tmp_path / "whole"), rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(labelled: Path, held_out: Path, tmp_path: Path) -> None:
    """But for mixtures, which are drawn for the batch of each process."""
    shared = {"epochs": 2, "eval_data": str(held_out), "eval_every": 3, "erasing": 0.5, "mixup": 0.0, "cutmix": 0.0}
    finetune(tiny.finetuning(labelled, tmp_path / "one", batch_size=4, **shared))
    tiny.launch(tiny.arguments(tiny.finetuning(labelled, tmp_path / "two", batch_size=2, **shared), "finetune"))
    assert tiny.losses(tmp_path / "two") == pytest.approx(tiny.losses(tmp_path / "one"), rel=1e-4)
    one, two = (read_log(tmp_path / name, EVALUATIONS) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for mine, theirs in zip(one, two, strict=True):
        assert {key: float(value) for key, value in mine.items()} == pytest.approx(
            {key: float(value) for key, value in theirs.items()}, rel=1e-4
        )


def test_the_loss_is_the_cross_entropy_of_soft_targets(labelled: Path, tmp_path: Path) -> None:
    """Without augmentation the clips stay as the worker cut them, and the targets are smoothed labels."""
    recipe, model, _ = _recipe(tiny.finetuning(labelled, tmp_path, **tiny.PLAIN | {"smoothing": 0.1}))
    batch = next(recipe.batches(0, 1, 0, 1))
    (part,) = recipe.parts(batch, 1, CPU)
    assert part.clips is not None and not isinstance(part.clips, Tensor) and part.tokens is None
    labels = batch.label
    assert labels is not None and labels.tolist()[0::2] == labels.tolist()[1::2]  # two clips of each video
    loss, numbers = recipe.step(model, part, 0)
    expected = F.cross_entropy(model(batch.clips), labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
    assert numbers == {} and loss.item() == pytest.approx(math.log(4), abs=1e-2)  # a new head knows nothing


def test_dropped_tokens_are_not_computed(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, model, _ = _recipe(tiny.finetuning(labelled, tmp_path, drop_tokens="random:0.75", **tiny.PLAIN))
    assert "drop_tokens random:0.75: tokens are left out in training" in capsys.readouterr().out
    batch = next(recipe.batches(0, 1, 0, 1))
    (part,) = recipe.parts(batch, 1, CPU)
    assert part.tokens is not None and part.tokens.shape == (4, 4)  # of 16
    assert len({tuple(row) for row in part.tokens.tolist()}) > 1 and (part.tokens.diff() > 0).all()
    torch.testing.assert_close(
        recipe.step(model, part, 0)[0], F.cross_entropy(model(batch.clips, part.tokens), batch.label)
    )
    again = recipe.parts(batch, 1, CPU)[0].tokens
    assert again is not None and torch.equal(again, part.tokens)


def test_tokens_that_do_not_change_are_left_out(labelled: Path, tmp_path: Path) -> None:
    """By the pixels of the clips as they are cut: all of the first frames, and of the others those that move."""
    recipe, model, _ = _recipe(tiny.finetuning(labelled, tmp_path, drop_tokens="changed:0.5", **tiny.PLAIN))
    batch = next(recipe.batches(0, 1, 0, 1))
    (part,) = recipe.parts(batch, 1, CPU)
    assert part.tokens is not None and part.tokens.shape == (4, 8)  # of 16
    assert part.tokens[:, :4].tolist() == [[0, 1, 2, 3]] * 4
    assert torch.equal(part.tokens, changed_token_index(batch.clips, 8, (2, 16, 16)))
    torch.testing.assert_close(
        recipe.step(model, part, 0)[0], F.cross_entropy(model(batch.clips, part.tokens), batch.label)
    )


@pytest.mark.parametrize("augment", ["device", "pillow"])
def test_what_changes_is_decided_before_erasing_and_mixing(augment: str, labelled: Path, tmp_path: Path) -> None:
    parts = []
    for options in ({"erasing": 1.0}, {"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}):
        config = tiny.finetuning(labelled, tmp_path, drop_tokens="changed:0.5", augment=augment, **options)
        recipe, _, _ = _recipe(config)
        batch = next(recipe.batches(0, 1, 0, 1))
        parts += recipe.parts(batch, 1, CPU)
        expected = changed_token_index(clean_clips(batch.clips, batch.matrix), 8, (2, 16, 16))
        assert parts[-1].tokens is not None and torch.equal(parts[-1].tokens, expected)
    assert torch.equal(parts[0].tokens, parts[1].tokens)


def test_augmentation_in_the_workers_draws_the_same_ops(labelled: Path, tmp_path: Path) -> None:
    """Pillow's pixels differ from the device's, and the rest of the batch does not."""
    parts = []
    for augment in ("device", "pillow"):
        recipe, _, _ = _recipe(tiny.finetuning(labelled, tmp_path, augment=augment, erasing=0.0))
        batch = next(recipe.batches(0, 1, 0, 1))
        assert (batch.matrix is None) == (augment == "pillow")
        parts += recipe.parts(batch, 1, CPU)
    assert torch.equal(parts[0].targets, parts[1].targets) and torch.equal(parts[0].numbers, parts[1].numbers)
    difference = (parts[0].clips - parts[1].clips).abs().mean()
    assert 0 < difference < 0.5 * (parts[0].clips - parts[1].clips.flip(0)).abs().mean()


def test_learning_rates_decay_with_depth(labelled: Path, tmp_path: Path) -> None:
    _, model, optimizer = _recipe(tiny.finetuning(labelled, tmp_path, layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"patch_embed": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "fc_norm": 1.0, "head": 1.0}
    for name, parameter in model.named_parameters():
        assert scale[id(parameter)] == next(each for part, each in expected.items() if name.startswith(part)), name
        assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize("train, trained", [("all", ""), ("head", "fc_norm head"), ("last:1", "blocks.1 fc_norm head")])
def test_only_what_is_trained_changes(train: str, trained: str, labelled: Path, tmp_path: Path) -> None:
    first = finetune(tiny.finetuning(labelled, tmp_path / "one", train=train, max_steps=1, warmup_epochs=0))
    start = load_published(first.checkpoint / "model.safetensors")
    more = finetune(tiny.finetuning(labelled, tmp_path / "one", train=train, max_steps=4, warmup_epochs=0, resume=True))
    end = load_published(more.checkpoint / "model.safetensors")
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed == {name for name in start if train == "all" or name.startswith(tuple(trained.split()))}


@pytest.mark.parametrize("options", [{}, {"head_dropout": 0.3, "drop_path": 0.3, "ema_decay": 0.5}], ids=str)
def test_a_continued_run_is_an_uninterrupted_one(options: dict[str, Any], labelled: Path, tmp_path: Path) -> None:
    shared = options | {"eval_data": str(labelled), "eval_every": 4, "epochs": 2}
    whole = finetune(tiny.finetuning(labelled, tmp_path / "whole", **shared))
    finetune(tiny.finetuning(labelled, tmp_path / "part", max_steps=5, **shared))
    part = finetune(tiny.finetuning(labelled, tmp_path / "part", resume=True, **shared))
    assert part.step == whole.step == 12
    assert tiny.losses(tmp_path / "part") == tiny.losses(tmp_path / "whole")
    assert (tmp_path / "part" / EVALUATIONS).read_text() == (tmp_path / "whole" / EVALUATIONS).read_text()
    for name in ("model.safetensors", *(["model_ema.safetensors"] if options else [])):
        mine, theirs = (load_published(result.checkpoint / name) for result in (part, whole))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_average_is_evaluated_and_saved(labelled: Path, held_out: Path, tmp_path: Path) -> None:
    config = tiny.finetuning(
        labelled, tmp_path, eval_data=str(held_out), eval_every=6, epochs=2, ema_decay=0.8, lr=0.3, init_scale=1.0
    )
    checkpoint = finetune(config).checkpoint
    row = read_log(tmp_path, EVALUATIONS)[-1]
    views = EvaluationViews(config.data.evaluation_views(tiny.CLASSES), 3, 0)
    losses = []
    for name in ("model_ema.safetensors", "model.safetensors"):
        model = read_classifier(checkpoint / name).build().eval()
        with torch.no_grad():
            figures = views.figures(model, 0, 1)
        losses.append((figures["loss"][0] / figures["loss"][1]).item())
        assert figures["top1"][1] == figures["top5"][0] == 8  # of 4 classes, each is among the best 5
    assert float(row["loss"]) == pytest.approx(losses[0], rel=1e-4) != pytest.approx(losses[1], rel=1e-3)


def test_a_checkpoint_names_its_classes(labelled: Path, tmp_path: Path) -> None:
    checkpoint = finetune(tiny.finetuning(labelled, tmp_path, max_steps=1)).checkpoint
    assert json.loads((checkpoint / "classes.json").read_text()) == list(tiny.CLASSES)
    assert read_classifier(checkpoint).class_names == tiny.CLASSES
    assert "classes.json" in json.loads((checkpoint / "state.json").read_text())["files"]


def test_other_classes_or_labels_do_not_continue(labelled: Path, tmp_path: Path) -> None:
    videos = [shutil.copy(path, tmp_path / f"video{k}.mp4") for k, path in enumerate(sorted(labelled.rglob("*.mp4")))]
    listed, classes = tmp_path / "list.txt", tmp_path / "classes.txt"

    def run(labels: list[int], class_names: str) -> None:
        listed.write_text("".join(f"{video} {label}\n" for video, label in zip(videos, labels, strict=True)))
        classes.write_text("\n".join(class_names))
        shared = {"classes": str(classes), "allow_empty_classes": True, "max_steps": 1}
        finetune(tiny.finetuning(listed, tmp_path / "run", resume=True, **shared))

    labels = [k // 3 for k in range(12)]
    run(labels, "abcd")
    for others, names in ((labels, "abdc"), (labels, "abcde"), ([1, 0, *labels[2:]], "abcd")):
        with pytest.raises(ValueError, match=r"a run continues with the videos.*'labels': "):
            run(others, names)
    run(labels, "abcd")


def test_from_two_towers(
    labelled: Path, two_towers_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step has learning rate 0 and changes no weight."""
    run = finetune(tiny.finetuning(labelled, tmp_path / "run", init=str(two_towers_run), max_steps=1))
    towers = load_file(sorted((two_towers_run / "checkpoints").iterdir())[-1] / "model.safetensors")
    found = read_classifier(run.checkpoint).state
    taken = [name for name in found if name.startswith(("patch_embed.", "blocks."))]
    assert len(taken) > 20 and all(torch.equal(found[name], towers[f"vision_encoder.{name}"]) for name in taken)
    assert "away from the fixed positions of the model: pos_embed" in capsys.readouterr().out
