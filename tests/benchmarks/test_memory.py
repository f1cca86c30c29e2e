"""The memory suite and `python -m benchmarks.memory`: reports hold predictions, and say so."""

import functools
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import benchmarks.memory.__main__ as command
from benchmarks.memory import report as module
from benchmarks.memory.predictable import make_predictable
from benchmarks.memory.report import memory_report
from videomae_fast._optional import EXTRAS
from videomae_fast.cli import main
from videomae_fast.memory import predict
from videomae_fast.memory.predict import predict_step
from videomae_fast.models.config import CONFIGS, VideoMAEConfig
from videomae_fast.recipes import step_memory
from videomae_fast.recipes.step_memory import CHECKPOINTED, PretrainingStep, StepSettings

TINY = VideoMAEConfig(96, 2, 2, 48, 2, decoder_depth=2, patch_size=8, num_frames=8, image_size=(64, 64))
SMALL_CARD = {"a small card": 2**29}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A size "tiny", one card that few batches fit, and a cache of its own."""
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    monkeypatch.setattr(step_memory, "CARDS", SMALL_CARD)
    monkeypatch.setattr("videomae_fast.memory.report.CARDS", SMALL_CARD)
    monkeypatch.setattr(module, "ALL", ("published", "videomae_fast", "videomae_fast, checkpointed"))
    monkeypatch.setattr(step_memory, "MASK_RATIOS", (0.75, 0.9))
    monkeypatch.setattr(step_memory, "DECODER_MASK_RATIOS", (0.0, 0.5))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tables(report: str) -> list[dict[str, list[str]]]:
    """Each Markdown table as {first cell: other cells}."""
    found = []
    for part in report.split("\n\n"):
        if part.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
            found.append({row[0]: row[1:] for row in rows if row[0] != "---"})
    return found


def number(cell: str) -> int:
    return int(cell.strip("*").replace(",", ""))


def peak(name: str, batch_size: int) -> int:
    return predict_step(make_predictable(name, TINY, batch_size)).figures.peak_bytes


@functools.cache
def whole_report() -> tuple[str, str]:
    """The longest report of ViT-tiny, and its picture: it takes many predictions, and two tests read it."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "memory.svg")
        return memory_report(StepSettings("tiny"), 16, everything=True, picture=picture), picture.read_text()


@pytest.mark.slow
def test_everything() -> None:
    report, picture = whole_report()
    assert report.startswith("ViT-tiny, 16 clips of 8x64x64, bf16, mask ratio 0.9, decoder mask ratio 0.5:")
    assert "Predicted for a GPU" in report
    assert torch.cuda.is_available() == ("measured on" in report)

    breakdown, largest, effects = tables(report)
    assert breakdown[""] == list(module.ALL)
    peaks = {name: number(cell) for name, cell in zip(module.ALL, breakdown["**peak**"], strict=True)}
    for name, found in peaks.items():
        assert found == pytest.approx(peak(name, 16) / 2**20, abs=0.51)
    parts = ["parameters", "gradients", "optimizer state", "buffers", "inputs", "activations", "temporaries"]
    for column, found in enumerate(peaks.values()):
        assert sum(number(breakdown[part][column]) for part in parts) == pytest.approx(found, abs=4)
    assert breakdown["peak, ratio to the first"][0] == breakdown["above, ratio to the first"][0] == "1.000x"

    clips = dict(zip(module.ALL, map(number, largest["a small card, 0.5 GiB usable"]), strict=True))
    assert 0 < clips["published"] < clips["videomae_fast"] < clips["videomae_fast, checkpointed"]
    for name, batch_size in clips.items():
        assert peak(name, batch_size) <= 2**29 < peak(name, batch_size + 1)

    assert list(effects) == ["", "mask ratio 0.75", "mask ratio 0.9", "no decoder mask", "decoder mask ratio 0.5"]
    assert number(effects["mask ratio 0.9"][0]) == peaks["published"]
    assert number(effects["decoder mask ratio 0.5"][1]) == peaks["videomae_fast"]
    assert number(effects["mask ratio 0.75"][1]) > peaks["videomae_fast"]
    assert number(effects["no decoder mask"][0]) > peaks["published"]
    assert "<svg" in picture and len(picture) > 10_000


def test_default_report_and_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two columns, no effects of masks; a second run predicts nothing."""
    report = memory_report(StepSettings("tiny"), 16)
    breakdown, _ = tables(report)
    assert breakdown[""] == ["published", "videomae_fast"]
    assert list((tmp_path / "cache").rglob("*.json"))
    monkeypatch.setattr(predict, "fake_step", lambda *_: pytest.fail("predicted again"))
    assert memory_report(StepSettings("tiny"), 16) == report
    with pytest.raises(pytest.fail.Exception, match="predicted again"):
        memory_report(StepSettings("tiny"), 16, cached=False)


@pytest.mark.slow
def test_the_users_command_says_the_same_of_our_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--model", "tiny", "--batch-size", "16", "--all"]) == 0
    shown = capsys.readouterr()
    breakdown, largest, effects = tables(shown.out)
    assert breakdown[""] == ["videomae_fast", "videomae_fast, checkpointed"]
    beside = tables(whole_report()[0])
    assert [row[-2:] for row in beside[0].values()][:7] == list(breakdown.values())[:7]
    assert beside[1]["a small card, 0.5 GiB usable"][-2:] == largest["a small card, 0.5 GiB usable"]
    assert [row[1] for row in beside[2].values()] == [row[0] for row in effects.values()]
    assert "predictions" in shown.err  # the progress bar


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["videomae_fast", CHECKPOINTED])
@pytest.mark.parametrize("decoder_mask_ratio", [0.0, 0.5])
def test_both_predict_the_same_step(name: str, precision: str, decoder_mask_ratio: float) -> None:
    """`videomae-fast memory` and the memory suite build our step each for itself."""

    def make() -> PretrainingStep:
        step = PretrainingStep(name, StepSettings("tiny", 0.75, decoder_mask_ratio, precision))
        step.set_batch_size(6)
        return step

    expected = predict_step(make_predictable(name, TINY, 6, 0.75, decoder_mask_ratio, precision)).figures
    found = predict_step(make).figures
    assert (found.breakdown, found.activations) == (expected.breakdown, expected.activations)


def test_activation_checkpointing_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--model", "tiny", "--batch-size", "16", "--activation-checkpointing", "--no-cache"]) == 0
    breakdown, _ = tables(capsys.readouterr().out)
    assert breakdown[""] == ["videomae_fast, checkpointed"]
    assert number(breakdown["**peak**"][0]) == pytest.approx(peak("videomae_fast, checkpointed", 16) / 2**20, abs=0.51)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch_size must be positive, got 0"),
        (["--mask-ratio", "1.5"], "mask_ratio"),
        (["--picture", "nowhere/memory.png"], "nowhere"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for program, run in (("videomae-fast memory", lambda words: main(["memory", *words])), (None, command.main)):
        assert run(["--model", "tiny", *arguments]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"{program or 'python -m benchmarks.memory'}: error: ") and message in line


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="precision must be one of"):
        StepSettings("tiny", precision="fp8")
    with pytest.raises(ValueError, match="model must be one of"):
        step_memory.MemoryReport(("videomae_fast",), StepSettings("huger"), 2).text()


def test_pictures_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said before the long part."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(predict, "fake_step", lambda *_: pytest.fail("predicted"))
    with pytest.raises(ImportError, match=rf"videomae-fast\[{EXTRAS['matplotlib']}\]"):
        memory_report(StepSettings("tiny"), 2, picture=tmp_path / "memory.png")


def test_predicted_records_are_the_same_every_time() -> None:
    from benchmarks.memory.test_predicted import predict as make_record
    from benchmarks.model.contenders import StepCase
    from videomae_fast.memory.fake_cuda import DEVICE

    case = StepCase("tiny", "bf16", 0.75, 0.5, 4, DEVICE)
    published, ours = (make_record(case, variant) for variant in ("published", "videomae_fast"))
    assert ours == make_record(case, "videomae_fast")
    split = ["parameters", "gradients", "optimizer", "buffers", "inputs", "activations", "temporaries"]
    for record in (published, ours):
        assert record["predicted"] is True
        assert sum(record[f"{part}_mib"] for part in split) == pytest.approx(record["total_mib"])
    assert published["syncs"] > ours["syncs"] == 0
    values, tokens = 3 * 8 * 32 * 32, 4 * 4 * 4
    assert published["bytes_to_device_per_clip"] == 4 * values + 2 * 8 * tokens
    assert ours["bytes_to_device_per_clip"] == values + 8  # and the sample's number
