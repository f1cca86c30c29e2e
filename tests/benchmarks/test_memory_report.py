"""`videomae-fast profile`: the report holds the predictions, and says that they are predictions."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import report as profile
from benchmarks.memory.predictable import make_predictable
from videomae_fast.memory.predict import CARDS
from videomae_fast.memory.predict import predict_step as predict
from videomae_fast.models.config import CONFIGS, VideoMAEConfig

TINY = VideoMAEConfig(96, 2, 2, 48, 2, decoder_depth=2, patch_size=8, num_frames=8, image_size=(64, 64))
SMALL_CARD = {"a small card": 2**29}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size "tiny", and one card that few batches fit."""
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    monkeypatch.setattr(profile, "CARDS", SMALL_CARD)
    monkeypatch.setattr(profile, "COMPARED", ("published", "videomae_fast", "videomae_fast, checkpointed"))
    monkeypatch.setattr(profile, "MASK_RATIOS", (0.75, 0.9))
    monkeypatch.setattr(profile, "DECODER_MASK_RATIOS", (0.0, 0.5))


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


@pytest.mark.slow
def test_report(tmp_path: Path) -> None:
    picture = tmp_path / "memory.svg"
    report = profile.profile_report("tiny", 16, 0.9, 0.5, "bf16", picture)
    assert report.startswith("ViT-tiny, 16 clips of 8x64x64, bf16, mask ratio 0.9, decoder mask ratio 0.5:")
    assert "Predicted for a GPU" in report
    assert torch.cuda.is_available() == ("measured on" in report)

    breakdown, largest, effects = tables(report)
    assert breakdown[""] == list(profile.COMPARED)
    peaks = {name: number(cell) for name, cell in zip(profile.COMPARED, breakdown["**peak**"], strict=True)}
    for name, peak in peaks.items():
        exact = predict(make_predictable(name, TINY, 16)).peak_bytes / 2**20
        assert peak == pytest.approx(exact, abs=0.51)
    parts = ["parameters", "gradients", "optimizer state", "buffers", "inputs", "activations", "temporaries"]
    for column, peak in enumerate(peaks.values()):
        assert sum(number(breakdown[part][column]) for part in parts) == pytest.approx(peak, abs=4)
    assert breakdown["of the published peak"][0] == breakdown["of the published"][0] == "1.000x"

    clips = dict(zip(profile.COMPARED, map(number, largest["a small card, 0.5 GiB usable"]), strict=True))
    assert 0 < clips["published"] < clips["videomae_fast"] < clips["videomae_fast, checkpointed"]
    fits, not_fits = (predict(make_predictable("published", TINY, clips["published"] + more)) for more in (0, 1))
    assert fits.peak_bytes <= 2**29 < not_fits.peak_bytes

    assert list(effects) == ["", "mask ratio 0.75", "mask ratio 0.9", "no decoder mask", "decoder mask ratio 0.5"]
    assert number(effects["mask ratio 0.9"][0]) == peaks["published"]
    assert number(effects["decoder mask ratio 0.5"][1]) == peaks["videomae_fast"]
    assert number(effects["mask ratio 0.75"][1]) > peaks["videomae_fast"]
    assert number(effects["no decoder mask"][0]) > peaks["published"]

    drawing = picture.read_text()
    assert "<svg" in drawing and len(drawing) > 10_000


def test_cards_of_the_report() -> None:
    assert set(CARDS) == {"A100-40", "A100-80", "H100-80", "H200"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"size": "huger"}, "size must be one of"), ({"precision": "fp8"}, "precision must be one of")],
)
def test_errors_name_the_argument(changes: dict[str, str], message: str) -> None:
    arguments = {"size": "tiny", "batch_size": 2, "mask_ratio": 0.9, "decoder_mask_ratio": 0.5, "precision": "bf16"}
    with pytest.raises(ValueError, match=message):
        profile.profile_report(**(arguments | changes), picture=None)  # type: ignore[arg-type]


def test_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As installed from a wheel, which has no benchmarks/."""
    monkeypatch.setattr(profile, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(FileNotFoundError, match="run it from a checkout"):
        profile.profile_report("tiny", 2, 0.9, 0.5, "bf16", None)


def test_pictures_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"videomae-fast\[bench\]"):
        profile.profile_report("tiny", 2, 0.9, 0.5, "bf16", tmp_path / "memory.png")


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
