"""Features judged without a head: kNN and a linear probe on the features of training videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.interop import save_published
from videomae_fast.models import VideoMAEForClassification, VideoMAEForPretraining
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.evaluate_probe import evaluate_probe

CLASSES = ("dark", "grey", "light")


def write_class(folder: Path, level: int, count: int, seed: int) -> None:
    """Noise around a level of grey."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng((seed, level, number)).integers(-20, 20, (10, 32, 32, 3))
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for frame in (noise + level).clip(0, 255).astype(np.uint8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    for part, count in (("train", 4), ("test", 2)):
        for place, name in enumerate(CLASSES):
            write_class(folder / part / name, 50 + 75 * place, count, len(part))
    return folder


@pytest.fixture(scope="module", params=["pretraining", "classifier"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = replace(tiny.TINY, num_frames=8, image_size=(32, 32))
    made = VideoMAEForPretraining(config) if request.param == "pretraining" else VideoMAEForClassification(config, 7)
    folder = tmp_path_factory.mktemp(request.param)
    save_published(made, folder / "checkpoint.pth")
    (folder / "config.json").write_text(json.dumps({"num_frames": 8, "image_size": 32}))
    return folder / "checkpoint.pth"


def config(data: Path, model: Path, /, **options: Any) -> EvaluateConfig:
    given = {"data": str(data / "test"), "train_data": str(data / "train"), "init": str(model), "precision": "fp32"}
    few = {"segments": 2, "crops": 1, "frame_stride": 1, "workers": 0, "probe": "knn", "neighbours": 3}
    return EvaluateConfig.from_options(**(given | few | options))


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_classes_that_differ_in_brightness_are_told_apart(probe: str, data: Path, model: Path) -> None:
    result = evaluate_probe(config(data, model, probe=probe))
    assert result.evaluation.summary() == {
        "top1": 1.0,
        "top5": 1.0,
        "mean_class_accuracy": 1.0,
        "videos": 6,
        "missing": 0,
    }
    assert result.evaluation.class_names == CLASSES


def test_unreadable_videos_count_nowhere(data: Path, model: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).symlink_to(data / part)
    mixed = tmp_path / "list.csv"
    lines = [f"test/{name}/{number}.mp4,{name}" for name in CLASSES for number in range(2)]
    mixed.write_text("\n".join(["bad.mp4,grey", *lines]) + "\n")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    result = evaluate_probe(config(data, model, data=str(mixed)))
    assert result.evaluation.summary()["top1"] == 1 and result.evaluation.summary()["missing"] == 1
    assert [Path(each.path).name for each in result.missing] == ["bad.mp4"]
    (tmp_path / "only.csv").write_text("bad.mp4,grey\nbad.mp4,dark\nbad.mp4,light\n")
    with pytest.raises(ValueError, match=r"train_data: none of the 3 videos can be read, such as .*bad\.mp4"):
        evaluate_probe(config(data, model, train_data=str(tmp_path / "only.csv")))


def test_on_the_command_line(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = config(data, model, output=str(tmp_path / "out")).flat()
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value != ""]
    assert main(["evaluate", *words]) == 0
    assert "top-1 100.00%" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["videos"] == 6
    assert (tmp_path / "out" / "confusion.png").is_file()


def test_errors(data: Path, model: Path) -> None:
    with pytest.raises(ValueError, match="probe 'knn' and train_data '' go together"):
        config(data, model, train_data="")
    with pytest.raises(ValueError, match="probe judges features, init_classes a head: give one of them"):
        config(data, model, init_classes="names.txt")
    with pytest.raises(ValueError, match=r"^init is empty$"):
        evaluate_probe(config(data, model, init=""))
