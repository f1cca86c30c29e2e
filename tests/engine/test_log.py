"""Files and trackers of a run."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from videomae_fast.engine.log import COLUMNS, TRACKERS, RunLog, check_trackers, read_log, tracker_names
from videomae_fast.engine.parallel import make_accelerator


@pytest.mark.parametrize(
    ("track", "expected"),
    [
        ("tensorboard", ["tensorboard"]),
        ("wandb, tensorboard,wandb", ["wandb", "tensorboard"]),
        ("none", []),
        ("", []),
    ],
)
def test_names_of_trackers(track: str, expected: list[str]) -> None:
    assert tracker_names(track) == expected


@pytest.mark.parametrize("track", ["sacred", "tensorboard,none", "tensorboard;wandb"])
def test_unknown_trackers(track: str) -> None:
    with pytest.raises(ValueError, match=r"track must be none, or some of tensorboard, wandb, mlflow, .*; got '"):
        tracker_names(track)


def test_known_trackers_are_accelerates() -> None:
    from accelerate.utils import LoggerType

    assert TRACKERS.keys() == {str(known) for known in LoggerType} - {"all"}


@pytest.mark.parametrize("name", [name for name, package in TRACKERS.items() if not importlib.util.find_spec(package)])
def test_missing_package_of_a_tracker(name: str) -> None:
    with pytest.raises(ImportError, match=rf"--track {name} needs the package '{TRACKERS[name]}'.*pip install"):
        check_trackers([name])


def test_missing_tensorboard_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"--track tensorboard .*pip install 'videomae-fast\[train\]'"):
        check_trackers(["tensorboard"])


def test_a_tracker_that_accelerate_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "newest", "json")
    with pytest.raises(ImportError, match="--track newest needs a newer Accelerate than"):
        check_trackers(["newest"])


class Board:
    """A tracker that remembers."""

    name = "board"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def store_init_configuration(self, values: dict) -> None:
        self.seen.append(values)

    def log(self, values: dict, step: int) -> None:
        self.seen.append((step, values))


def _row(step: int) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, 0.5) | {"step": step, "epoch": 0}


def test_trackers_see_what_the_files_hold(tmp_path: Path) -> None:
    board = Board()
    accelerator = SimpleNamespace(
        trackers=[board], init_trackers=lambda *names, **options: None, log=lambda values, step: board.log(values, step)
    )
    log = RunLog(accelerator, tmp_path, 0, settings={"lr": 0.1})
    log.write([_row(1), _row(2)])
    log.write_evaluation(2, {"loss": 0.25})
    log.close()
    figures = {f"train/{name}": 0.5 for name in COLUMNS[2:]}
    assert board.seen == [{"lr": 0.1}, (1, figures), (2, figures), (2, {"eval/loss": 0.25})]
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2"]


def test_without_trackers_there_is_the_file_alone(tmp_path: Path) -> None:
    accelerator = make_accelerator("fp32", [], tmp_path / "tensorboard")
    log = RunLog(accelerator, tmp_path, 0, settings={})
    log.write([_row(1)])
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_tensorboard_shows_evaluations(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = make_accelerator("fp32", ["tensorboard"], tmp_path / "tensorboard")
    log = RunLog(accelerator, tmp_path, 0, settings={})
    log.write_evaluation(3, {"loss": 0.25})
    log.close()
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "videomae-fast"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/loss")] == [(3, 0.25)]


@pytest.mark.parametrize(
    "content",
    [
        b"step,loss\nx,1\n",
        b"loss\n1\n",
        b"step,loss\n1,2,3\n",
        b"step,loss\n1,\xff\n",
        b"\0" * 99 + b"\n1",
        b"step,loss\n1,a\n",
    ],
)
def test_a_damaged_log_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.csv is damaged, delete or move it: "):
        read_log(tmp_path)


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"step,loss\n1,2.5\n2")
    assert read_log(tmp_path) == [{"step": "1", "loss": "2.5"}]
