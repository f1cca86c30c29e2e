"""kNN accuracy during pre-training: of labelled videos, for any number of processes, beside the loss."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.recipes.pretrain import PretrainConfig, Pretraining, pretrain


def config(brightness: Path, output: Path, **options: Any) -> PretrainConfig:
    given = {"eval_data": str(brightness / "test"), "knn_data": str(brightness / "train"), "eval_every": 3}
    return tiny.settings(brightness / "train", output, **(given | options))


def test_it_is_logged_beside_the_loss(brightness: Path, tmp_path: Path) -> None:
    pretrain(config(brightness, tmp_path, epochs=2, warmup_epochs=0))
    rows = read_log(tmp_path, EVALUATIONS)
    assert len(rows) == 4 and all(float(row["loss"]) > 0 for row in rows)
    assert [float(row["knn_top1"]) for row in rows] == [1.0] * 4


def test_any_number_of_processes_counts_each_video_once(brightness: Path, tmp_path: Path) -> None:
    recipe = Pretraining(config(brightness, tmp_path))
    model, _ = recipe.build(torch.device("cpu"), print)
    with torch.no_grad():
        for world_size in (1, 2, 4, 7):
            shares = [recipe.evaluate(model.eval(), rank, world_size)["knn_top1"] for rank in range(world_size)]
            assert torch.stack(shares).sum(0).tolist() == [6, 6]


def test_an_unreadable_video_is_reported_once(
    brightness: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once each of `knn_data` and `eval_data`, in two evaluations."""
    shutil.copytree(brightness, tmp_path / "data")
    for part in ("train", "test"):
        folder = next(path for path in (tmp_path / "data" / part).iterdir() if path.is_dir())
        (folder / "bad.mp4").write_bytes(b"no video")
    recipe = Pretraining(config(tmp_path / "data", tmp_path / "run"))
    model, _ = recipe.build(torch.device("cpu"), print)
    with torch.no_grad():
        figures = [recipe.evaluate(model.eval(), 0, 1)["knn_top1"].tolist() for _ in range(2)]
    assert figures == [[6, 6], [6, 6]]
    assert capsys.readouterr().out.count("unreadable video left out of kNN: ") == 2


def test_errors(brightness: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"knn_data '.*' is for evaluations: give eval_every and eval_data"):
        config(brightness, tmp_path, eval_every=0)
    (tmp_path / "bad.csv").write_text("a.mp4,dark\nb.mp4,grey\nc.mp4,light\n")
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    recipe = Pretraining(config(brightness, tmp_path / "run", knn_data=str(tmp_path / "bad.csv")))
    model, _ = recipe.build(torch.device("cpu"), print)
    with torch.no_grad(), pytest.raises(ValueError, match="knn_data: none of its videos can be read"):
        recipe.evaluate(model.eval(), 0, 1)
    (tmp_path / "few.csv").write_text("a.mp4,dark\nb.mp4,grey\n")
    with pytest.raises(ValueError, match="class 'light', which is none of the 2 classes"):
        Pretraining(config(brightness, tmp_path / "run", knn_data=str(tmp_path / "few.csv"))).build(
            torch.device("cpu"), print
        )
