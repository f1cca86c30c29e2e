"""InternVideo2 in every command after alignment: fine-tuning, evaluation, features, probes, distillation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recipes import taught, tiny
from tests.recipes.aligned import make_video_teacher
from tests.recipes.aligned import settings as alignment
from tests.recipes.internvideo2 import finetuning, make_aligned
from videomae_fast.cli import main
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop import CheckpointError, convert, load_published, read_classifier, read_feature_model
from videomae_fast.models import InternVideo2ForClassification
from videomae_fast.recipes.align import align
from videomae_fast.recipes.distil import distil
from videomae_fast.recipes.evaluate import evaluate
from videomae_fast.recipes.evaluate_probe import evaluate_probe
from videomae_fast.recipes.features import FeaturesConfig, write_features
from videomae_fast.recipes.finetune import FinetuneConfig, Finetuning, finetune
from videomae_fast.recipes.pretrain import PretrainConfig, pretrain
from videomae_fast.recipes.teacher import Teacher, read_teacher

CPU = torch.device("cpu")


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    return make_aligned(tmp_path / "aligned")


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Of a checkpoint, or of the last one of a run."""
    return load_published((list_checkpoints(folder) or [folder])[-1] / "model.safetensors")


def build(config: FinetuneConfig) -> tuple[InternVideo2ForClassification, Any]:
    torch.manual_seed(0)
    model, optimizer = Finetuning(config).build(CPU, print)
    assert isinstance(model, InternVideo2ForClassification)
    return model, optimizer


def test_from_an_aligned_student_to_scores(
    aligned: Path, labelled: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command asks for the family again; the average of the weights is evaluated, too."""
    options = {"init": str(aligned), "eval_data": str(held_out), "eval_every": 6, "ema_decay": 0.5, "save_every": 1}
    config = finetuning(labelled, tmp_path / "run", keep_checkpoints=0, **options)
    assert main(tiny.arguments(config, "finetune")) == 0
    assert (tmp_path / "run" / "attention.png").is_file()
    said = capsys.readouterr().out
    assert "44 of 48 tensors of InternVideo2ForClassification are from" in said
    assert "new, left as they were: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in said
    assert "not used: clip_decoder.*.head.bias (2)" in said and "interpolated" not in said
    first = list_checkpoints(tmp_path / "run")[0]
    begin, end, start = map(weights_of, (first, tmp_path / "run", aligned))
    kept = begin.keys() & start.keys()  # the first step is at learning rate 0
    assert len(kept) == 44 and all(torch.equal(begin[name], start[name]) for name in kept)
    assert not any(torch.equal(begin[name], end[name]) for name in begin)

    found = evaluate(tiny.evaluation(held_out, tmp_path / "run")).evaluation
    assert found.read.all() and found.class_names == tiny.CLASSES
    assert (list_checkpoints(tmp_path / "run")[-1] / "model_ema.safetensors").is_file()
    model = read_classifier(list_checkpoints(tmp_path / "run")[-1]).build().eval()
    assert isinstance(model, InternVideo2ForClassification) and model.config.grid == (4, 2, 2)
    model.load_state_dict(end)  # the very names


def test_alignment_then_fine_tuning(videos: Path, labelled: Path, held_out: Path, tmp_path: Path) -> None:
    """A run of one command starts the other: only the classifier's own norm and head are new."""
    teacher = make_video_teacher(tmp_path / "teacher")
    align(alignment(videos, tmp_path / "align", video_teacher=str(teacher), max_steps=2))
    run = finetuning(labelled, tmp_path / "run", init=str(tmp_path / "align"), max_steps=1)
    finetune(run)
    start, found = weights_of(tmp_path / "align"), weights_of(tmp_path / "run")
    shared = start.keys() & found.keys()
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.ls2.gamma"} <= shared
    assert all(torch.equal(found[name], start[name]) for name in shared)  # the first step is at learning rate 0
    new = {name.partition(".")[0] for name in found.keys() - shared}
    assert new == {"clip_projector", "fc_norm", "head"}  # a video teacher teaches no pool
    assert evaluate(tiny.evaluation(held_out, tmp_path / "run")).evaluation.read.all()
    with pytest.raises(CheckpointError, match=r"tokens of 16x16 pixels, the model of 14x14.*--patch-size"):
        finetune(run.with_options(output=str(tmp_path / "other"), patch_size=14, image_size=28))


def test_probes_and_features_of_a_student_without_a_pool(
    videos: Path, labelled: Path, held_out: Path, tmp_path: Path
) -> None:
    """The commands of docs/alignment.md: a video teacher alone teaches no pool, and features are means of tokens."""
    teacher, run = make_video_teacher(tmp_path / "teacher"), tmp_path / "align"
    align(alignment(videos, run, video_teacher=str(teacher), max_steps=1))
    options = {"probe": "knn", "train_data": str(labelled), "neighbours": 3, "segments": 1, "crops": 1}
    assert evaluate_probe(tiny.evaluation(held_out, run, **options)).evaluation.read.all()
    options = {"data": str(held_out), "init": str(run), "output": str(tmp_path / "features")}
    assert write_features(FeaturesConfig.from_options(**options), lambda line: None) == 0
    values = np.load(tmp_path / "features" / "rows" / "video100.npy")
    assert values.shape == (3, 48) and np.isfinite(values).all()


def test_features_and_probes(aligned: Path, labelled: Path, held_out: Path, tmp_path: Path) -> None:
    """Of an aligned student the row of its pool; of a classifier this row as its head reads it."""
    run = finetune(finetuning(labelled, tmp_path / "run", init=str(aligned), max_steps=1))
    for init in (aligned, tmp_path / "run"):
        for kind, shape in (("mean", (32,)), ("tokens", (4, 2, 2, 48))):
            given = {"data": str(held_out), "init": str(init), "kind": kind, "precision": "fp32"}
            output = tmp_path / f"features {init.name} {kind}"
            assert write_features(FeaturesConfig.from_options(**given, output=str(output)), lambda line: None) == 0
            values = np.load(output / "rows" / "video100.npy")
            assert values.shape == (3, *shape) and np.isfinite(values).all()  # windows of 4 of 12 frames
        options = {"probe": "knn" if init is aligned else "linear", "train_data": str(labelled), "neighbours": 3}
        found = evaluate_probe(tiny.evaluation(held_out, init, **options)).evaluation
        assert found.read.all() and found.class_names == tiny.CLASSES
    student, classifier = read_feature_model(aligned), read_feature_model(run.checkpoint)
    assert isinstance(classifier, InternVideo2ForClassification)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(classifier.features(clip), classifier.fc_norm(student.features(clip)))


def test_other_clips_than_those_of_the_alignment(
    aligned: Path, labelled: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables are interpolated once: what a run saves is of its own clips, and continues."""
    options = {"init": str(aligned), "num_frames": 8, "image_size": 48, "epochs": 2, "batch_size": 4}
    config = finetuning(labelled, tmp_path / "run", **options)
    finetune(config.with_options(max_steps=1))
    assert "interpolated to 8x3x3 tokens: pos_embed" in capsys.readouterr().out
    assert weights_of(tmp_path / "run")["pos_embed"].shape == (1, 73, 48)
    step_1 = weights_of(tmp_path / "run")["pos_embed"]
    finetune(config.with_options(resume=True))
    whole = tmp_path / "whole"
    finetune(config.with_options(output=str(whole)))
    assert tiny.losses(tmp_path / "run") == tiny.losses(whole)
    assert all(torch.equal(t, weights_of(whole)[name]) for name, t in weights_of(tmp_path / "run").items())
    assert read_classifier(list_checkpoints(whole)[-1]).config.grid == (8, 3, 3)
    assert not torch.equal(step_1, weights_of(whole)["pos_embed"])
    found = evaluate(tiny.evaluation(held_out, whole, num_frames=4)).evaluation  # interpolated again
    assert found.read.all()
    again = finetuning(labelled, tmp_path / "again", init=str(whole), max_steps=1)
    finetune(again)
    assert "interpolated to 4x2x2 tokens: pos_embed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "train, trained", [("head", "clip_projector fc_norm head"), ("last:1", "blocks.1 clip_projector fc_norm head")]
)
def test_only_what_is_trained_changes(train: str, trained: str, aligned: Path, labelled: Path, tmp_path: Path) -> None:
    options = {"init": str(aligned), "train": train, "warmup_epochs": 0, "lr": 0.3, "drop_path": 0.2}
    first = weights_of(finetune(finetuning(labelled, tmp_path / "run", max_steps=1, **options)).checkpoint)
    finetune(finetuning(labelled, tmp_path / "run", max_steps=4, resume=True, **options))
    end = weights_of(tmp_path / "run")
    changed = {name for name in first if not torch.equal(first[name], end[name])}
    assert changed == {name for name in first if name.startswith(tuple(trained.split()))}


def test_learning_rates_and_weight_decay(labelled: Path, tmp_path: Path) -> None:
    """The published groups: tables and cls token are of layer 0 and never decay, the pool is of the last layer."""
    model, optimizer = build(finetuning(labelled, tmp_path, layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"patch_embed": 0.125, "cls_token": 0.125, "pos_embed": 0.125, "blocks.0": 0.25, "blocks.1": 0.5}
    expected |= {"clip_projector": 1.0, "fc_norm": 1.0, "head": 1.0}
    for name, parameter in model.named_parameters():
        assert scale[id(parameter)] == next(each for part, each in expected.items() if name.startswith(part)), name
        is_matrix = name.endswith(".weight") and "norm" not in name
        assert decay[id(parameter)] == (0.05 if is_matrix else 0.0), name


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(aligned: Path, labelled: Path, held_out: Path, tmp_path: Path) -> None:
    """But for mixtures, which are drawn for the batch of each process."""
    shared = {"init": str(aligned), "epochs": 2, "eval_data": str(held_out), "eval_every": 3, "drop_path": 0.3}
    shared |= {"mixup": 0.0, "cutmix": 0.0}
    finetune(finetuning(labelled, tmp_path / "one", batch_size=4, **shared))
    arguments = tiny.arguments(finetuning(labelled, tmp_path / "two", batch_size=2, **shared), "finetune")
    tiny.launch(arguments, "tests.recipes.aligned")
    assert tiny.losses(tmp_path / "two") == pytest.approx(tiny.losses(tmp_path / "one"), rel=1e-4)
    one, two = (read_log(tmp_path / name, EVALUATIONS) for name in ("one", "two"))
    for mine, theirs in zip(one, two, strict=True):
        assert {key: float(value) for key, value in mine.items()} == pytest.approx(
            {key: float(value) for key, value in theirs.items()}, rel=1e-4
        )


@pytest.mark.parametrize("drop_tokens", ["", "changed:0.5"])
def test_a_run_is_that_with_larger_batches(drop_tokens: str, aligned: Path, labelled: Path, tmp_path: Path) -> None:
    """With all augmentation, stochastic depth and left-out tokens."""
    shared = {"init": str(aligned), "drop_path": 0.5, "drop_tokens": drop_tokens, "epochs": 2}
    finetune(finetuning(labelled, tmp_path / "whole", batch_size=4, **shared))
    finetune(finetuning(labelled, tmp_path / "parts", batch_size=1, accumulate=4, **shared))
    assert tiny.losses(tmp_path / "parts") == pytest.approx(tiny.losses(tmp_path / "whole"), rel=1e-5)


def test_rows_of_another_head(
    aligned: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As K710 to K400 at 16 frames: rows by a list, tables interpolated. Without a list, the head is new."""
    finetune(finetuning(labelled, tmp_path / "four", init=str(aligned), max_steps=1))
    two = tmp_path / "two.csv"
    two.write_text("".join(f"{labelled}/{name}/video0.mp4,{n}\n" for n, name in enumerate(("columns fast", "rows"))))
    (tmp_path / "rows.json").write_text("[1, 2]")
    options = {"init": str(tmp_path / "four"), "num_frames": 8, "max_steps": 1, "batch_size": 1}
    finetune(finetuning(two, tmp_path / "picked", init_classes=str(tmp_path / "rows.json"), **options))
    head = weights_of(tmp_path / "four")["head.weight"][[1, 2]]
    assert torch.equal(weights_of(tmp_path / "picked")["head.weight"], head)
    assert "interpolated to 8x2x2 tokens: pos_embed" in capsys.readouterr().out
    finetune(finetuning(two, tmp_path / "new", **options))
    assert "the head of the file has 4 classes, that of the model 2" in capsys.readouterr().out


def test_it_learns(brightness: Path, tmp_path: Path) -> None:
    options = {"batch_size": 6, "epochs": 15, "lr": 0.2, "crop": "multi-scale", **tiny.PLAIN}
    finetune(finetuning(brightness / "train", tmp_path, **options))
    losses = tiny.losses(tmp_path)
    assert losses[0] > 0.8 * math.log(3) and losses[-1] < 0.5 * losses[0]
    assert evaluate(tiny.evaluation(brightness / "test", tmp_path)).evaluation.accuracy() >= 5 / 6


def test_distillation_between_families(colors: Path, teacher: Path, tmp_path: Path) -> None:
    """A student of either family learns from a teacher of the other: only their clips must be alike."""
    shared = {"precision": "bf16", "num_frames": 8, **tiny.PLAIN}
    student = {"model": "internvideo2-tiny", "patch_size": 16}
    distil(taught.settings(colors, teacher, tmp_path / "iv", **shared, **student, epochs=6, lr=0.2))
    losses = np.array(tiny.losses(tmp_path / "iv")).reshape(6, -1).mean(1)  # of each epoch
    assert losses[-1] < 0.75 * losses[0]
    result = distil(taught.settings(colors, tmp_path / "iv", tmp_path / "mae", **shared, max_steps=2))
    assert result.step == 2 and all(map(math.isfinite, tiny.losses(tmp_path / "mae")))


def test_a_teacher_has_the_logits_of_its_classifier(aligned: Path, labelled: Path, tmp_path: Path) -> None:
    """In bf16 its linear maps are kept so, but for the head."""
    config = finetuning(labelled, tmp_path / "run", init=str(aligned), max_steps=1)
    finetune(config)
    classifier = read_teacher(str(tmp_path / "run"), "", tiny.CLASSES, config.model_config(), print)
    found = Teacher(classifier, CPU, precision="bf16")
    dtypes = {name: p.dtype for name, p in found.model.named_parameters()}
    assert dtypes["clip_projector.cross_attn.k.weight"] == dtypes["blocks.0.mlp.fc1.weight"] == torch.bfloat16
    assert dtypes["head.weight"] == dtypes["pos_embed"] == torch.float32
    clip = torch.randn(3, 3, 4, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        model = classifier.build().eval()
        features = model.features(clip).float()
    with torch.no_grad():
        assert torch.equal(found(clip), torch.nn.functional.linear(features, model.head.weight, model.head.bias).half())


def test_weights_of_the_other_family(
    aligned: Path, labelled: Path, videos: Path, teacher: Path, tmp_path: Path
) -> None:
    theirs = r"holds weights of InternVideo2, the model is of VideoMAE \(sizes of InternVideo2: internvideo2-nano, "
    for partial in (False, True):
        with pytest.raises(CheckpointError, match=theirs):
            finetune(tiny.finetuning(labelled, tmp_path / "mae", init=str(aligned), init_partial=partial))
        with pytest.raises(CheckpointError, match=r"it holds no InternVideo2"):
            finetune(finetuning(labelled, tmp_path / "iv", init=str(teacher), init_partial=partial))
    with pytest.raises(CheckpointError, match=theirs):
        pretrain(tiny.settings(videos, tmp_path / "pre", init=str(aligned)))


def test_options_of_the_other_family() -> None:
    for name, value in {"positions": "sinusoid", "trained_clip": "16x224x224"}.items():
        with pytest.raises(ValueError, match=rf"{name} '{value}' is about fixed tables.*-tiny learns its own"):
            FinetuneConfig.from_options(model="internvideo2-tiny", **{name: value})
    with pytest.raises(
        ValueError, match=r"model must be one of small, base, large, huge, giant, tiny, got 'internvideo2-"
    ):
        PretrainConfig.from_options(model="internvideo2-base")
    with pytest.raises(
        ValueError, match=r"model must be one of small, .*, internvideo2-6b, .*, got 'internvideo2-giant'"
    ):
        FinetuneConfig.from_options(model="internvideo2-giant")
    with pytest.raises(ValueError, match=r"multiples of tubelet_size 1 and patch_size 14"):
        FinetuneConfig.from_options(model="internvideo2-tiny", image_size=32).model_config()


def test_sizes_that_do_not_fit(aligned: Path, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"patch_embed.proj.weight"):
        finetune(finetuning(labelled, tmp_path / "run", init=str(aligned), patch_size=8))
    (aligned / "config.json").write_text(json.dumps({"num_frames": 5, "image_size": 32}))
    with pytest.raises(CheckpointError, match=r"position table has 16 rows .* do not make clips of 5 frames of 32x32"):
        finetune(finetuning(labelled, tmp_path / "run", init=str(aligned)))
    for command in (evaluate, evaluate_probe):
        options = {} if command is evaluate else {"probe": "knn", "train_data": str(labelled)}
        with pytest.raises(CheckpointError, match=r"do not make clips of 5 frames|it holds an encoder"):
            command(tiny.evaluation(labelled, aligned, **options))


def test_what_is_not_possible_is_said(
    aligned: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--data", str(labelled), "--init", str(aligned)]) == 2
    assert "it holds an encoder, and a classifier is needed" in capsys.readouterr().err
    for to in ("huggingface", "published"):
        with pytest.raises(ValueError, match=r"is an InternVideo2, which transformers does not have"):
            convert(aligned, tmp_path / "converted.pth", to)
