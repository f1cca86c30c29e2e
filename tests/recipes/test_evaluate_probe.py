"""Features judged without a head: kNN and a linear probe on the features of training videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from tests.recipes.brightness import CLASSES
from videomae_fast.cli import main
from videomae_fast.interop import save_published
from videomae_fast.models import VideoMAEForClassification, VideoMAEForPretraining
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.evaluate_probe import evaluate_probe


@pytest.fixture(scope="module", params=["pretraining", "classifier"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = replace(tiny.TINY, num_frames=8, image_size=(32, 32))
    made = VideoMAEForPretraining(config) if request.param == "pretraining" else VideoMAEForClassification(config, 7)
    folder = tmp_path_factory.mktemp(request.param)
    save_published(made, folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps({"num_frames": 8, "image_size": 32}))
    return folder / "checkpoint.pth"


def config(brightness: Path, model: Path, /, **options: Any) -> EvaluateConfig:
    given = {
        "data": str(brightness / "test"),
        "train_data": str(brightness / "train"),
        "init": str(model),
        "precision": "fp32",
    }
    few = {
        "segments": 2,
        "crops": 1,
        "frame_stride": 1,
        "workers": 0,
        "probe": "knn",
        "neighbours": 3,
        "precision": "fp32",
    }
    return EvaluateConfig.from_options(**(given | few | options))


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_classes_that_differ_in_brightness_are_told_apart(probe: str, brightness: Path, model: Path) -> None:
    result = evaluate_probe(config(brightness, model, probe=probe))
    assert result.evaluation.summary() == {
        "top1": 1.0,
        "top5": 1.0,
        "mean_class_accuracy": 1.0,
        "videos": 6,
        "missing": 0,
    }
    assert result.evaluation.class_names == CLASSES


def test_unreadable_videos_count_nowhere(brightness: Path, model: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(brightness / part)
    mixed = tmp_path / "list.csv"
    lines = [f"test/{name}/{number}.mp4,{name}" for name in CLASSES for number in range(2)]
    mixed.write_text("\n".join(["bad.mp4,grey", *lines]) + "\n")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    result = evaluate_probe(config(brightness, model, data=str(mixed)))
    assert result.evaluation.summary()["top1"] == 1 and result.evaluation.summary()["missing"] == 1
    assert [Path(each.path).name for each in result.missing] == ["bad.mp4"]
    (tmp_path / "only.csv").write_text("bad.mp4,grey\nbad.mp4,dark\nbad.mp4,light\n")
    with pytest.raises(ValueError, match=r"train_data: none of the 3 videos can be read, such as .*bad\.mp4"):
        evaluate_probe(config(brightness, model, train_data=str(tmp_path / "only.csv")))


def test_on_the_command_line(brightness: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = config(brightness, model, output=str(tmp_path / "out")).flat()
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value != ""]
    assert main(["evaluate", *words]) == 0
    assert "top-1 100.00%" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["videos"] == 6
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_errors(brightness: Path, model: Path) -> None:
    with pytest.raises(ValueError, match="probe 'knn' and train_data '' go together"):
        config(brightness, model, train_data="")
    with pytest.raises(ValueError, match="probe judges features, init_classes a head: give one of them"):
        config(brightness, model, init_classes="names.txt")
    with pytest.raises(ValueError, match=r"^init is empty$"):
        evaluate_probe(config(brightness, model, init=""))


def test_two_towers_are_judged_by_their_features(
    brightness: Path, two_towers_run: Path, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the text model is named, which the run cannot do without."""
    monkeypatch.setitem(CONFIGS, "tiny", tiny.TINY)
    asked = config(brightness, two_towers_run, segments=1)
    found = evaluate_probe(asked)
    assert found.evaluation.summary()["top1"] == 1.0
    again = evaluate_probe(asked.with_options(text_model=str(text_model)))
    assert again.evaluation.scores.tolist() == found.evaluation.scores.tolist()
    with pytest.raises(ValueError, match=r"text_model must be a folder .* got nowhere"):
        evaluate_probe(asked.with_options(text_model="nowhere"))
