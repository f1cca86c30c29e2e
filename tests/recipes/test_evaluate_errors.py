"""Bad input of an evaluation, each an error that names it, before or instead of wrong figures."""

import builtins
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.locks import locked_elsewhere
from tests.recipes import tiny
from videomae_fast._files import partial_path
from videomae_fast.cli import main
from videomae_fast.interop import read_classifier, save_published
from videomae_fast.models import VideoMAEForClassification, VideoMAEForPretraining
from videomae_fast.recipes.evaluate import EvaluateConfig, evaluate


def _checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


class _Weights:
    """What may be given as `init`."""

    def __init__(self, folder: Path, run: Path) -> None:
        config = read_classifier(_checkpoint(run)).config
        torch.manual_seed(0)
        self.pre_trained, self.damaged = folder / "pre.pth", folder / "nan.pth"
        save_published(VideoMAEForPretraining(config), self.pre_trained)
        model = VideoMAEForClassification(config, 4)
        torch.nn.init.constant_(model.head.bias, float("nan"))
        save_published(model, self.damaged)


def _bad(name: str, held_out: Path, run: Path, tmp_path: Path) -> EvaluateConfig:
    weights, listed = _Weights(tmp_path, run), tmp_path / "list.txt"
    video = next(held_out.rglob("*.mp4"))
    shutil.copy(video, tmp_path / "video.mp4")
    changes: dict[str, Any] = {
        "no data": {"data": ""},
        "no init": {"init": ""},
        "no such weights": {"init": "/gone.pth"},
        "pre-trained": {"init": str(weights.pre_trained)},
        "NaN": {"init": str(weights.damaged), "num_frames": 8, "image_size": 48, "classes": str(tmp_path / "four.txt")},
        "label too large": {"data": str(listed)},
        "no label": {"data": str(listed)},
        "unknown class": {"data": str(listed)},
        "other classes": {"classes": str(tmp_path / "five.txt")},
        "no names": {"init": str(tmp_path / "bare.safetensors"), "num_frames": 8, "image_size": 48},
        "not readable": {"data": str(listed)},
        "view too large": {"short_side": 32},
        "no patches": {"image_size": 40},
        "no head of its own": {"init_merged": "merged.json"},
    }[name]
    listed.write_text(
        {
            "label too large": f"{tmp_path}/video.mp4 4\n",
            "no label": f"{tmp_path}/video.mp4\n",
            "unknown class": f"{tmp_path}/video.mp4 skiing\n",
            "not readable": f"{tmp_path}/list.txt 0\n{tmp_path}/gone.mp4 1\n",
        }.get(name, "")
    )
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    (tmp_path / "four.txt").write_text("\n".join(tiny.CLASSES))
    shutil.copy(_checkpoint(run) / "model.safetensors", tmp_path / "bare.safetensors")
    return tiny.evaluation(held_out, run, **changes)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no data", "data is empty: name a list of videos with labels"),
        ("no init", "init is empty: name the weights of a classifier"),
        ("no such weights", "/gone.pth' does not exist"),
        ("pre-trained", "pre.pth': it holds pre-training weights .*, and a classifier is needed: fine-tune from it"),
        ("NaN", "the scores of 8 videos are NaN or infinite, first of .*mp4: the weights are damaged"),
        ("label too large", r"video.mp4.*class number 4: expected a number in \[0, 4\)"),
        ("no label", "list.txt:1: .*video.mp4' has no label: expected a class number"),
        ("unknown class", "video.mp4.*class 'skiing', which is none of the 4 classes"),
        ("other classes", "the 4 classes of the head do not have 'a', 'b', 'c', 'd', 'e'"),
        ("no names", "class 'columns fast', which is none of the 4 classes"),
        ("not readable", "none of the 2 videos can be read:"),
        ("view too large", r"short_side must be at least the height and width \(48, 48\) of a view, got 32"),
        ("no patches", "40"),
        ("no head of its own", "init_merged 'merged.json' goes with --init-classes"),
    ],
)
def test_bad_input(name: str, message: str, held_out: Path, classifier_run: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(_bad(name, held_out, classifier_run, tmp_path))


def test_unwritable_output(held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is decoded."""
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "out")
    assert main(["evaluate", "--data", str(held_out), "--init", "/gone", "--output", output]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_second_evaluation_is_kept_out(held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is read."""
    with locked_elsewhere(tmp_path):
        assert main(["evaluate", "--data", str(held_out), "--init", "/gone", "--output", str(tmp_path)]) == 2
    assert f"output folder {tmp_path} is in use by another run" in capsys.readouterr().err


def test_a_full_disk(
    held_out: Path,
    classifier_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each file in turn cannot be written: one line that names it, and no part of it."""
    command = tiny.arguments(tiny.evaluation(held_out, classifier_run, output=str(tmp_path)), "evaluate")
    for name in ("metrics.json", "predictions.tsv", "classes.tsv", "confusion.png"):
        with monkeypatch.context() as patch:
            full_disk(patch, partial_path(tmp_path / name))
            assert main(command) == 2
        assert f"No space left on device: '{tmp_path / name}'" in capsys.readouterr().err
        assert not (tmp_path / name).exists() and not partial_path(tmp_path / name).exists()
    assert main(command) == 0


def full_disk(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Nothing can be written to `path`."""
    original = io.open

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(file, *args, **options)

    patch.setattr(io, "open", opened)  # pathlib's
    patch.setattr(builtins, "open", opened)
