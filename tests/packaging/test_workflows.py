"""The workflow files are what GitHub can run, and every command in them exists."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from videomae_fast.cli import build_parser

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "permissions", "jobs"} <= workflow.keys() and True in workflow  # YAML reads `on` as True
    found = []
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
        found += job["steps"]
    return found


def commands(path: Path) -> list[list[str]]:
    lines = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def test_both_are_there() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "gpu.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_step_does_one_thing(path: Path) -> None:
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_exists(path: Path) -> None:
    for command in commands(path):
        program, arguments = command[0], command[1:]
        if program == ".venv/bin/videomae-fast":
            build_parser().parse_args(arguments)  # SystemExit if it does not take them
        elif program == ".venv/bin/python":
            _check_pytest(arguments)
        elif program == "python3" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).is_file(), f"{path.name} runs {arguments[0]}, which is not there"
        elif program in ("python3", ".venv/bin/pip"):
            readme = (ROOT / "README.md").read_text(encoding="utf-8")
            assert " ".join(command) in readme.replace("'", ""), "not the command that README.md installs with"
        else:
            assert os.access(ROOT / program, os.X_OK), f"{path.name} runs {program}, which is not there"


def _check_pytest(arguments: list[str]) -> None:
    assert arguments[:2] == ["-m", "pytest"]
    rest = arguments[2:]
    if rest[:1] == ["-m"]:
        assert f'"{rest[1]}: ' in (ROOT / "pyproject.toml").read_text(encoding="utf-8"), f"no marker {rest[1]}"
        rest = rest[2:]
    assert rest and all((ROOT / name).exists() for name in rest), rest


def test_the_gpu_workflow_runs_what_needs_a_gpu_and_compares() -> None:
    lines = [" ".join(command) for command in commands(ROOT / ".github" / "workflows" / "gpu.yml")]
    assert any("-m gpu" in line for line in lines)
    benches = [line for line in lines if " bench " in line]
    assert all("--compare benchmarks/results" in line for line in benches)
    assert {"ops", "model"} <= {line.split("--suite ")[1].split()[0] for line in benches}


def test_the_cpu_workflow_runs_ci_and_the_oldest_versions() -> None:
    file = ROOT / ".github" / "workflows" / "ci.yml"
    assert [command[:2] for command in commands(file)] == [[".ci/run"], ["python3", "tests/other_torch.py"]]
    oldest = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]["versions"]["strategy"]["matrix"]["include"][0]
    asked = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={oldest["python"]}"' in asked
    assert f'"torch>={oldest["torch"].removesuffix(".0")}"' in asked
