"""`benchmarks.harness.run`: nothing is kept of a red run, regressions are named, the results page follows."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import run as bench
from benchmarks.harness.results import load, save
from benchmarks.harness.run import (
    BenchmarkError,
    DisagreementError,
    RegressionError,
    TimeLimitError,
    check_regressions,
    run_suites,
)

GREEN = """
def test_{name}(benchmark):
    benchmark.pedantic(lambda: None, rounds=2)
    benchmark.extra_info["record"] = dict(
        suite="memory", name="base", case="", variant="{name}", predicted=True, peak_mib=3.0)
"""
CONFTEST = """
from types import SimpleNamespace

import pytest

from benchmarks.harness.journal import Journal

def pytest_addoption(parser):
    for name in ("size", "batch-size", "rounds", "published-repo", "journal"):
        parser.addoption(f"--{name}")

def pytest_configure(config):
    asked = [config.getoption(n) for n in ("size", "batch_size", "rounds", "published_repo")]
    config.rootpath.joinpath("asked").write_text(str(asked))

def pytest_collection_modifyitems(config, items):
    from pathlib import Path
    machine = dict(device="d", driver="none", versions={}, threads=1, commit="c", copy_gb_per_s=None)
    config.journal = Journal(Path(config.getoption("journal")), machine)
    items[:] = [item for item in items if item.nodeid not in config.journal.finished]

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().passed:
        item.config.journal.add(item.nodeid, item.funcargs["benchmark"])
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one suite, of one green test."""
    suite = tmp_path / "benchmarks" / "memory"
    suite.mkdir(parents=True)
    for part in ("harness", "roofline", "align", "contrast", "caption"):  # a suite may import them
        (tmp_path / "benchmarks" / part).symlink_to(bench.ROOT / "benchmarks" / part)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    (tmp_path / "benchmarks" / "conftest.py").write_text(CONFTEST)
    (suite / "test_one.py").write_text(GREEN.format(name="one"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(bench.ROOT), str(bench.ROOT / "kernels")]))
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    return tmp_path


def add_test(checkout: Path, body: str) -> None:
    (checkout / "benchmarks" / "memory" / "test_red.py").write_text(GREEN.format(name="two") + f"    {body}\n")


def test_results_are_kept_and_returned(checkout: Path) -> None:
    results = run_suites(["memory"])
    assert [record["variant"] for record in results["records"]] == ["one"]
    assert load(checkout / "benchmarks" / "results" / "predicted" / "c.json")["records"] == results["records"]


def test_options_reach_the_suites(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_suites(["memory"], size="base", batch_size=3, rounds=4, published_repo=Path("repo"), folder=tmp_path / "kept")
    assert (checkout / "asked").read_text() == str(["base", "3", "4", str(elsewhere / "repo")])
    assert (tmp_path / "kept" / "predicted" / "c.json").exists()
    assert not (checkout / "benchmarks" / "results").exists()


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("assert 1 == 2, 'ours is wrong'", DisagreementError, "test_two: AssertionError: ours is wrong"),
        (
            "from benchmarks.harness.run import DisagreementError as D; raise D('they differ')",
            DisagreementError,
            "implementations disagree: test_two: .*they differ",
        ),
        ("raise OSError('no disk')", BenchmarkError, "benchmarks failed.*test_two: OSError: no disk"),
    ],
)
def test_a_red_run_leaves_nothing(checkout: Path, body: str, error: type[Exception], text: str) -> None:
    add_test(checkout, body)
    with pytest.raises(error, match=text) as raised:
        run_suites(["memory"])
    assert type(raised.value) is error
    assert not (checkout / "benchmarks" / "results").exists()


def test_a_red_run_with_a_journal_keeps_what_passed_and_goes_on(checkout: Path) -> None:
    add_test(checkout, "assert not __import__('pathlib').Path('red').exists()")
    (checkout / "red").write_text("")
    journal, file = checkout / "journal", checkout / "benchmarks" / "results" / "predicted" / "c.json"
    with pytest.raises(DisagreementError, match="test_two"):
        run_suites(["memory"], journal=journal)
    assert [record["variant"] for record in load(file)["records"]] == ["one"]
    (checkout / "red").unlink()
    (checkout / "benchmarks" / "memory" / "test_one.py").write_text(GREEN.format(name="one") + "    assert False\n")
    results = run_suites(["memory"], journal=journal)  # test_one is not run again: it would fail
    assert [record["variant"] for record in results["records"]] == ["one", "two"]
    assert run_suites(["memory"], journal=journal) == results  # nothing is left to run


def test_a_run_is_ended_at_its_time_limit(checkout: Path) -> None:
    """With what it started; what was measured until then is kept."""
    started = checkout / "started"
    add_test(
        checkout,
        "import subprocess, time; child = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(started)!r}, 'w').write(str(child.pid))\n"
        "    time.sleep(600)",
    )
    with pytest.raises(TimeLimitError, match="time ran out"):
        run_suites(["memory"], journal=checkout / "journal", time_limit=20)
    file = checkout / "benchmarks" / "results" / "predicted" / "c.json"
    assert [record["variant"] for record in load(file)["records"]] == ["one"]
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # the system takes a moment to clear a killed process
            os.kill(int(started.read_text()), 0)
            time.sleep(0.1)


def test_a_suite_that_cannot_be_imported(checkout: Path) -> None:
    add_test(checkout, "pass\nimport no_such_module")
    with pytest.raises(BenchmarkError, match="No module named 'no_such_module'"):
        run_suites(["memory"])


def test_an_empty_run_is_an_error(checkout: Path) -> None:
    (checkout / "benchmarks" / "memory" / "test_one.py").write_text("")
    with pytest.raises(BenchmarkError, match="pytest exited with 5"):
        run_suites(["memory"])


def test_unknown_suite() -> None:
    with pytest.raises(ValueError, match=r"suite must be one of .*'memory'.*, got 'speed'"):
        run_suites(["speed"])


def test_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As copied without its suites."""
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="no benchmarks/ops: benchmarks run in a checkout of the repository"):
        run_suites(["ops"])


def memory_results(mib: float, commit: str) -> dict[str, Any]:
    record = {"suite": "memory", "name": "base", "case": "", "variant": "ours", "predicted": True, "peak_mib": mib}
    return {"device": "predicted", "versions": {}, "commit": commit, "date": commit, "records": [record]}


def test_regressions_against_a_file_and_a_folder(tmp_path: Path) -> None:
    (file,) = save(memory_results(10.0, "1"), tmp_path)
    save(memory_results(12.0, "2"), tmp_path)
    check_regressions(memory_results(10.0, "3"), file)
    check_regressions(memory_results(12.0, "3"), tmp_path)  # with the newest
    check_regressions(memory_results(10.0, "2"), tmp_path)  # with the newest of another commit
    with pytest.raises(
        RegressionError, match=r"1 regressions against .*\n  memory, base, , ours: peak_mib was 10, now 11"
    ):
        check_regressions(memory_results(11.0, "3"), file)


def test_report_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    save(memory_results(10.0, "1"), folder)
    page, images = tmp_path / "docs" / "benchmarks.md", tmp_path / "docs" / "images"
    images.mkdir(parents=True)
    page.write_text(f"before\n{bench.START}\nold\n{bench.END}\nafter\n")
    (images / "of-yesterday.svg").write_text("")
    bench.write_report(tmp_path)
    text = page.read_text()
    assert not list(images.glob("*.svg"))
    assert text.startswith("before\n<!-- results -->\n\n") and text.endswith("\n\n<!-- end of results -->\nafter\n")
    assert "old" not in text and "Predicted memory of a training step, ViT-base" in text
    bench.write_report(tmp_path)
    assert page.read_text() == text


def test_results_are_readable_json(tmp_path: Path) -> None:
    (file,) = save(memory_results(10.0, "1"), tmp_path)
    assert json.loads(file.read_text())["records"][0]["peak_mib"] == 10.0
