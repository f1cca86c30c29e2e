"""`.ci/gpu`: what has passed is not run again, what takes too long is ended and says so, and keeps what it has."""

import importlib.machinery
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "gpu"
CHILD = "import os, pathlib, sys, time; here = pathlib.Path(sys.argv[1]); "


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, whose tasks end within a second if they are told to."""
    loader = importlib.machinery.SourceFileLoader("gpu_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, module)  # dataclasses look their module up
    loader.exec_module(module)
    monkeypatch.setattr(module, "GRACE", 1)
    monkeypatch.setattr(module, "SHORTEST", 0.5)
    set_handler = signal.signal
    monkeypatch.setattr(signal, "signal", lambda *args: None if args[0] == signal.SIGTERM else set_handler(*args))
    return module


@pytest.fixture
def tasks(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes one part of tasks, each of which is a line of Python; its arguments are the output folder and the limit."""

    def make(**lines: str) -> None:
        bodies = tmp_path / "bodies"
        bodies.mkdir(exist_ok=True)
        found = []
        for name, line in lines.items():
            (bodies / f"body_{name}.py").write_text(CHILD + f"(here / 'ran').open('a').write('{name} '); " + line)
            found.append(gpu.Task(name, 1.0, f"body_{name} {{output}} {{limit}}"))
        monkeypatch.setenv("PYTHONPATH", str(bodies))
        monkeypatch.setattr(gpu, "PARTS", {"only": tuple(found)})

    return make


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split()


def outcomes(folder: Path) -> dict[str, str]:
    return {name: found["outcome"] for name, found in json.loads((folder / "state.json").read_text()).items()}


def test_a_failure_does_not_stop_the_part_and_only_it_is_run_again(gpu: ModuleType, tasks: Any, tmp_path: Path) -> None:
    tasks(a="pass", b="sys.exit((here / 'broken').exists())", c="print('c has run')")
    (tmp_path / "broken").write_text("")
    assert gpu.main(["only", "--output", str(tmp_path)]) == gpu.FAILED
    assert outcomes(tmp_path) == {"a": "passed", "b": "FAILED", "c": "passed"}
    assert ran(tmp_path) == ["a", "b", "c"] and "c has run" in (tmp_path / "c.log").read_text()
    (tmp_path / "broken").unlink()
    assert gpu.main(["1", "--output", str(tmp_path)]) == 0
    assert ran(tmp_path) == ["a", "b", "c", "b"]
    assert "b: passed" in (tmp_path / "summary.txt").read_text()


def test_a_task_that_changed_is_run_again(gpu: ModuleType, tasks: Any, tmp_path: Path) -> None:
    tasks(a="pass")
    assert gpu.main(["--output", str(tmp_path)]) == 0
    tasks(a="pass")
    gpu.PARTS = {"only": (gpu.Task("a", 0.5, "body_a {output}"),)}
    assert gpu.main(["--output", str(tmp_path)]) == 0 and ran(tmp_path) == ["a", "a"]


def test_a_task_that_takes_too_long_is_interrupted_and_the_next_one_runs(
    gpu: ModuleType, tasks: Any, tmp_path: Path
) -> None:
    tasks(slow="\ntry:\n    time.sleep(600)\nfinally:\n    print('kept')", b="pass")
    start = time.monotonic()
    assert gpu.main(["--output", str(tmp_path), "--budget", "12"]) == gpu.TIMED_OUT
    assert time.monotonic() - start < 60
    assert outcomes(tmp_path) == {"slow": "TIME RAN OUT", "b": "passed"}
    assert "kept" in (tmp_path / "slow.log").read_text()  # what it writes when it is interrupted


def test_what_does_not_listen_is_killed_with_what_it_started(gpu: ModuleType, tasks: Any, tmp_path: Path) -> None:
    tasks(
        deaf="\nimport signal, subprocess\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n(here / 'child').write_text(str(child.pid))\ntime.sleep(600)"
    )
    assert gpu.main(["--output", str(tmp_path), "--budget", "8"]) == gpu.TIMED_OUT
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # the system takes a moment to clear a killed process
            os.kill(int((tmp_path / "child").read_text()), 0)
            time.sleep(0.1)


def test_what_no_time_is_left_for_is_not_started(
    gpu: ModuleType, tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks(a="pass", b="pass")
    monkeypatch.setattr(gpu, "SHORTEST", 1000)
    assert gpu.main(["--output", str(tmp_path)]) == gpu.TIMED_OUT
    assert outcomes(tmp_path) == {"a": "not started", "b": "not started"} and not (tmp_path / "ran").exists()


def test_a_failure_counts_more_than_the_time(gpu: ModuleType, tasks: Any, tmp_path: Path) -> None:
    tasks(a="sys.exit(1)", b=f"sys.exit({gpu.TIMED_OUT})")  # b: a benchmark that ended itself
    assert gpu.main(["--output", str(tmp_path)]) == gpu.FAILED
    assert outcomes(tmp_path) == {"a": "FAILED", "b": "TIME RAN OUT"}


def test_time_that_is_left_is_shared(gpu: ModuleType, tasks: Any, tmp_path: Path) -> None:
    """Both tasks have the same share; the second may use what the first left. A task ends itself before its limit."""
    tasks(**{name: f"(here / '{name}').write_text(sys.argv[2])" for name in ("a", "b")})
    gpu.main(["--output", str(tmp_path), "--budget", "100"])
    first, second = (float((tmp_path / name).read_text()) for name in ("a", "b"))
    assert first == 50 - gpu.GRACE and 50 < second <= 100 - gpu.GRACE


def test_unknown_part(gpu: ModuleType) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["4"])


def test_the_parts_fit_and_their_commands_exist(gpu: ModuleType, tmp_path: Path) -> None:
    """Every module of a task is there, and takes the arguments it is given."""
    from benchmarks.__main__ import build_parser

    assert list(gpu.PARTS) == ["tests", "speed", "tiles"] and gpu.BUDGET < 600
    names = [task.name for part in gpu.PARTS.values() for task in part]
    assert len(set(names)) == len(names)
    for part in gpu.PARTS.values():
        assert sum(task.share for task in part) == pytest.approx(1)
        for task in part:
            for words in filter(None, (task.command.split(), task.tiny.split())):
                assert importlib.util.find_spec(words[0])
                if words[:2] == ["benchmarks", "--suite"]:
                    build_parser().parse_args([word.format(output=tmp_path, limit=1) for word in words[1:]])
                for path in (word for word in words if word.startswith("tests")):
                    assert (ROOT / path).exists(), path
            shlex.split(task.options), shlex.split(task.tiny_options)
    untried = {task.name for part in gpu.PARTS.values() for task in part if not task.tiny}
    assert untried == {"steps-giant", "ops-giant"}  # as steps-base and ops-base


def test_everything_marked_gpu_is_run_by_one_of_two_tasks(gpu: ModuleType) -> None:
    """tests/kernels by the one, all the rest by the other."""
    kernels, rest = (task.command.split() for task in gpu.PARTS["tests"][1:])
    assert kernels[-3:] == ["-m", "gpu", "tests/kernels"]
    assert rest[-5:] == ["-m", "gpu", "tests", "--ignore", "tests/kernels"]


def test_it_is_told_to_end(tmp_path: Path) -> None:
    """SIGTERM, as from `timeout`: the task that runs is ended, too."""
    command = [sys.executable, str(SCRIPT), "tests", "--dry-run", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("== environment")
    process.terminate()
    assert process.wait(60) == 124


@pytest.mark.slow
def test_a_dry_run_goes_through_everything(tmp_path: Path) -> None:
    """The script itself, as a user runs it: tiny tasks on the CPU; a second run finds all of it done."""
    command = [sys.executable, str(SCRIPT), "--dry-run", "--budget", "1200"]
    environment = os.environ | {"GPU_OUTPUT": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout[-5000:]
    state = outcomes(tmp_path)
    assert set(state.values()) == {"passed"}
    assert {"environment", "kernels", "steps-base", "steps-contrast", "ops-base", "tiles"} <= state.keys()
    (results,) = (tmp_path / "results").glob("*/*.json")
    suites = {record["suite"] for record in json.loads(results.read_text())["records"]}
    assert suites == {"model", "contrast", "ops"}
    for name in ("kernels.xml", "steps-base.jsonl", "tiles.json", "predicted-and-measured.json", "summary.txt"):
        assert (tmp_path / name).stat().st_size > 0
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("has passed before") == len(state)
