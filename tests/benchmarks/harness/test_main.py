"""`python -m benchmarks`: options reach the suites, and an error that a user can mend is one line."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks.harness.run import ROOT, SUITES, BenchmarkError, DisagreementError, RegressionError, TimeLimitError

RESULTS = {"device": "predicted", "versions": {}, "commit": "c", "date": "2026-01-02", "records": []}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the suites, the report and the comparison are called with; they do not run."""
    calls: dict[str, Any] = {}

    def run_suites(suites: tuple[str, ...], **options: object) -> dict[str, Any]:
        calls["suites"] = suites, options
        return RESULTS

    monkeypatch.setattr(command, "run_suites", run_suites)
    monkeypatch.setattr(command, "write_report", lambda: calls.update(report=True))
    monkeypatch.setattr(command, "check_regressions", lambda *arguments: calls.update(compare=arguments))
    return calls


def test_defaults(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    names = ("size", "batch_size", "rounds", "published_repo", "folder", "journal", "time_limit")
    options = dict.fromkeys(names)
    assert asked == {"suites": (("model",), options)}
    assert "### Predicted" in capsys.readouterr().out


def test_options(asked: dict[str, Any]) -> None:
    words = "--suite all --model base --batch-size 3 --rounds 4 --published-repo there --output here --report"
    words += " --journal lines --time-limit 60"
    assert command.main([*words.split(), "--compare", "base", "--threshold", "0.5"]) == 0
    options = {"size": "base", "batch_size": 3, "rounds": 4, "published_repo": Path("there"), "folder": Path("here")}
    options |= {"journal": Path("lines"), "time_limit": 60.0}
    assert asked == {"suites": (SUITES, options), "report": True, "compare": (RESULTS, Path("base"), 0.5)}


def test_a_report_alone_measures_nothing(asked: dict[str, Any]) -> None:
    assert command.main(["--report"]) == 0
    assert asked == {"report": True}
    assert command.main(["--report", "--compare", "base"]) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((error, 2) for error in (ValueError, ImportError, OSError, BenchmarkError, DisagreementError)),
        (RegressionError, 2),
        (TimeLimitError, 124),
    ],
)
def test_errors_of_the_input_are_one_line(
    error: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: argparse.Namespace) -> None:
        raise error("it is broken")

    monkeypatch.setattr(command, "run", fails)
    assert command.main([]) == status
    assert capsys.readouterr().err == "python -m benchmarks: error: it is broken\n"


def test_a_time_limit_needs_a_journal(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--time-limit", "60"]) == 2 and asked == {}
    assert "--time-limit needs --journal" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: argparse.Namespace) -> None:
        raise TypeError("it is broken")

    monkeypatch.setattr(command, "run", fails)
    with pytest.raises(TypeError, match="it is broken"):
        command.main([])


@pytest.mark.parametrize("arguments", [["--suite", "speed"], ["--model", "enormous"], ["ops"]])
def test_unknown_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2


def test_it_starts_as_a_module() -> None:
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0 and "usage: python -m benchmarks" in done.stdout
