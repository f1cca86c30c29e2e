"""`videomae-fast bench`: nothing is timed before the two implementations agree, and the figures fit together."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videomae_fast.cli import main
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.models.config import CONFIGS, VideoMAEConfig
from videomae_fast.report import bench


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size "tiny", on published clips, for the bench has no others, but with few tokens."""
    monkeypatch.setitem(CONFIGS, "tiny", VideoMAEConfig(24, 1, 1, 16, 1, decoder_depth=2, patch_size=28))


def test_report_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert main(["bench", "--model", "tiny", "--batch-size", "2", "--steps", "2", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert (report["model"], report["batch_size"], report["steps"]) == ("tiny", 2, 2)
    assert report["torch"] == torch.__version__
    assert report["precision"] == ("bf16" if device == "cuda" else "fp32")
    assert 0 <= report["agreement"]["loss"] < bench.LOSS_TOLERANCE[report["precision"]]
    assert 0 < report["agreement"]["gradient"] < bench.GRADIENT_TOLERANCE[report["precision"]]
    published, ours = report["results"]
    assert [published["name"], ours["name"]] == ["published", "videomae_fast"]
    for row in (published, ours):
        assert row["seconds"] > 0
        assert row["clips_per_second"] == pytest.approx(2 / row["seconds"])
    # The published step holds all tokens and all targets at once; ours does not.
    assert 1 < ours["peak_mib"] < published["peak_mib"]

    table = capsys.readouterr().out
    assert "ViT-tiny, 2 clips of 16x224x224" in table
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(("| pub", "| videomae"))]
    assert [row[0] for row in rows] == ["published", "videomae_fast"]
    assert rows[0][3] == rows[0][5] == "1.00x"
    assert float(rows[1][3][:-1]) == pytest.approx(published["seconds"] / ours["seconds"], abs=0.006)
    assert float(rows[1][5][:-1]) == pytest.approx(ours["peak_mib"] / published["peak_mib"], abs=0.006)


def _never(*arguments: Any) -> float:
    raise AssertionError("timed although the implementations disagree")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_disagreement_is_an_error_and_nothing_is_timed(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = VideoMAEForPretraining.predict

    def predict(self: VideoMAEForPretraining, *arguments: Any) -> Tensor:
        predictions = original(self, *arguments)
        if where == "loss":
            return predictions + 0.1 * torch.randn_like(predictions)
        return predictions.detach() + 1.01 * (predictions - predictions.detach())  # values as before

    monkeypatch.setattr(VideoMAEForPretraining, "predict", predict)
    monkeypatch.setattr(bench, "time_step", _never)
    with pytest.raises(RuntimeError, match="the two implementations disagree, so nothing was timed"):
        bench.run_bench("tiny", 1, 1)


def test_disagreement_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.LOSS_TOLERANCE, "fp32", 0.0)
    monkeypatch.setitem(bench.LOSS_TOLERANCE, "bf16", 0.0)
    monkeypatch.setattr(bench, "time_step", _never)
    assert main(["bench", "--model", "tiny", "--batch-size", "1", "--json", str(tmp_path / "bench.json")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("videomae-fast bench: error: the two implementations disagree")
    assert output.out == ""
    assert not (tmp_path / "bench.json").exists()


def test_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As installed from a wheel, which has no benchmarks/."""
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["bench", "--model", "tiny"]) == 2
    assert capsys.readouterr().err == (
        "videomae-fast bench: error: bench compares with benchmarks/baselines: "
        "run it from a checkout of the repository\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="the measure for CPUs")
def test_peak_counts_what_is_alive_at_once() -> None:
    """Two tensors of 4 MiB one after the other are 4 MiB; both at once are 8."""

    def one_after_the_other() -> None:
        for _ in range(2):
            held = torch.ones(2**20)
            del held

    def at_once() -> None:
        held = [torch.ones(2**20) for _ in range(2)]
        held.clear()

    device = torch.device("cpu")
    assert bench.peak_mib(one_after_the_other, device) == pytest.approx(4, rel=0.01)
    assert bench.peak_mib(at_once, device) == pytest.approx(8, rel=0.01)
