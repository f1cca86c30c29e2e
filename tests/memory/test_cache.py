"""Predictions on disk: found again, and never when anything that decides them has changed."""

from pathlib import Path

import pytest

from tests.memory.steps import PerceptronStep
from videomae_fast.memory import StepPredictor, cache, predict
from videomae_fast.memory.cache import PredictionCache


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder of sources."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text("1")
    return tmp_path / "package"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every step that was profiled."""
    found: list[int] = []
    profile = predict._profile
    monkeypatch.setattr(predict, "_profile", lambda step: found.append(len(step.x)) or profile(step))
    return found


def ask(store: PredictionCache | None, batch_size: int = 8, **settings: object) -> int:
    with StepPredictor(lambda: PerceptronStep(1), {"model": "a", **settings}, store) as predictor:
        return predictor(batch_size).peak_bytes


def test_a_known_prediction_is_read(package: Path, tmp_path: Path, made: list[int]) -> None:
    first = ask(PredictionCache(tmp_path / "kept", [package]))
    assert ask(PredictionCache(tmp_path / "kept", [package])) == first
    assert made == [8] and len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize("change", ["batch size", "settings", "source", "new file", "version"])
def test_any_change_predicts_anew(
    change: str, package: Path, tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(PredictionCache(tmp_path / "kept", [package]))
    if change == "source":
        (package / "one.py").write_text("2")
    if change == "new file":
        (package / "two.py").write_text("")
    if change == "version":
        monkeypatch.setattr(cache, "version", lambda name: "0.0")
    settings = {"mask_ratio": 0.5} if change == "settings" else {}
    ask(PredictionCache(tmp_path / "kept", [package]), 9 if change == "batch size" else 8, **settings)
    assert len(made) == 2


def test_nothing_is_kept_without_settings_or_a_cache(package: Path, tmp_path: Path, made: list[int]) -> None:
    store = PredictionCache(tmp_path / "kept", [package])
    for _ in range(2):
        with StepPredictor(lambda: PerceptronStep(1), None, store) as predictor:
            predictor(8)
        ask(None)
    assert len(made) == 4 and not (tmp_path / "kept").exists()


def test_a_broken_file_and_a_folder_that_cannot_be_written(package: Path, tmp_path: Path, made: list[int]) -> None:
    store = PredictionCache(tmp_path / "kept", [package])
    first = ask(store)
    for text in ("", "[]", "{}"):
        next((tmp_path / "kept").iterdir()).write_text(text)
        assert ask(store) == first
    (tmp_path / "file").write_text("")
    assert ask(PredictionCache(tmp_path / "file", [package])) == first
    assert len(made) == 5
