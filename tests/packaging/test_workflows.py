"""The workflow files are what GitHub can run, and every command in them exists."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.pages import ROOT
from videomae_fast.cli import build_parser

yaml = pytest.importorskip("yaml")
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI, GPU, RELEASE = (ROOT / ".github" / "workflows" / f"{name}.yml" for name in ("ci", "gpu", "release"))
MODULES = ("build", "pip", "twine")  # what release.yml runs of others


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


def test_all_are_there() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "gpu.yml", "release.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_step_does_one_thing(path: Path) -> None:
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1", step["uses"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_exists(path: Path) -> None:
    for command in commands(path):
        program, arguments = command[0], command[1:]
        if program == ".venv/bin/videomae-fast":
            build_parser().parse_args(arguments)  # SystemExit if it does not take them
        elif program == ".venv/bin/python":
            assert os.access(ROOT / arguments[0], os.X_OK), f"{path.name} runs {arguments[0]}, which is not there"
        elif program == "python3" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).is_file(), f"{path.name} runs {arguments[0]}, which is not there"
        elif path == RELEASE:
            assert program in ("grep", "!") or (arguments[0] == "-m" and arguments[1] in MODULES), command
        elif program in ("python3", ".venv/bin/pip"):
            readme = (ROOT / "README.md").read_text(encoding="utf-8")
            assert " ".join(command) in readme.replace("'", ""), "not the command that README.md installs with"
        else:
            assert os.access(ROOT / program, os.X_OK), f"{path.name} runs {program}, which is not there"


def test_the_gpu_workflow_runs_every_part_and_compares() -> None:
    """The parts themselves: tests/ci/test_gpu_script.py."""
    lines = [command for command in commands(GPU) if command[1:2] == [".ci/gpu"]]
    assert [line[2] for line in lines] == ["tests", "speed", "tiles"]
    assert all(line[3:5] == ["--output", "runs/gpu"] for line in lines)
    assert lines[1][-2:] == ["--compare", "benchmarks/results"]
    budgets = sum(float(line[line.index("--budget") + 1]) for line in lines)
    assert budgets < 60 * yaml.safe_load(GPU.read_text(encoding="utf-8"))["jobs"]["gpu"]["timeout-minutes"]


def test_the_cpu_workflow_runs_ci_and_the_oldest_versions() -> None:
    assert [command[:2] for command in commands(CI)] == [[".ci/run"], ["python3", ".ci/versions/torch.py"]]
    oldest = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]["versions"]["strategy"]["matrix"]["include"][0]
    asked = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={oldest["python"]}"' in asked
    assert f'"torch>={oldest["torch"].removesuffix(".0")}"' in asked


INSTALL = """
mkdir -p .venv/bin
for program in ruff mypy python pip mkdocs; do
    printf '#!/bin/sh\\ncase "$0 $*" in *"$FAILING"*) exit 3;; esac' > .venv/bin/$program
    chmod +x .venv/bin/$program
done
"""
README = """```bash
sh install.sh && .venv/bin/pip install -e '.[demo]' && .venv/bin/python pretrain --demo
sh install.sh && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest
```
"""
FAILING = {  # what fails: the step that must say so
    ".[test]": "install",
    "ruff check": "style",
    "ruff format": "style",
    "mypy": "types",
    "--suite memory": "memory gate",
    "--suite caption": "memory gate",
    "pytest": "README.md: tests",
    "-m slow": "slow tests",
    ".[docs]": "install",
    "triton.py": "kernels with the oldest and newest Triton",
    "mkdocs build": "documentation",
    "--demo": "README.md: demo",
}


@pytest.mark.parametrize("failing", [*FAILING, "nothing"])
def test_ci_stops_at_the_first_step_that_fails(failing: str, tmp_path: Path) -> None:
    """.ci/run itself, in a folder where programs that do nothing stand in for those of .venv."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "install.sh").write_text(INSTALL, encoding="utf-8")
    environment = os.environ | {"FAILING": failing}
    process = subprocess.run(tmp_path / ".ci" / "run", env=environment, capture_output=True, text=True)
    ended = [line for line in process.stdout.splitlines() if line.endswith(" s")]
    if failing == "nothing":
        assert process.returncode == 0, process.stderr
        assert re.fullmatch(r"all checks passed in \d+ s", ended.pop())
        assert [line[3 : line.index(": passed in")] for line in ended] == list(dict.fromkeys(FAILING.values()))
    else:
        assert process.returncode == 3
        assert f"== {FAILING[failing]}: FAILED with exit status 3 after" in process.stderr
        assert [line for line in ended if FAILING[failing] in line] == []


def test_the_release_is_checked_and_needs_no_token() -> None:
    """Only tags publish; what is published was built and checked by a job without rights; no secret is named."""
    text = RELEASE.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "read"}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert "permissions" not in build
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert not re.search(r"secrets\.|password|token:\s*\$", text)
    lines = [" ".join(command) for command in commands(RELEASE)]
    assert lines.index("python3 -m build") < lines.index("python3 -m twine check --strict dist/*")


@pytest.mark.parametrize(
    ("version", "owner", "passes"),
    [("1.2.3", "somebody", True), ("1.2.4", "somebody", False), ("1.2.3", "OWNER", False)],
)
def test_a_release_with_another_version_or_the_placeholder_stops(
    version: str, owner: str, passes: bool, tmp_path: Path
) -> None:
    """The two checks of release.yml, run on files that stand in for the project's."""
    (tmp_path / "videomae_fast").mkdir()
    text = (ROOT / "videomae_fast" / "__init__.py").read_text(encoding="utf-8")
    text, places = re.subn(r'^__version__ = ".*"$', '__version__ = "1.2.3"', text, flags=re.MULTILINE)
    assert places == 1
    (tmp_path / "videomae_fast" / "__init__.py").write_text(text, encoding="utf-8")
    for name in ("pyproject.toml", "README.md", "mkdocs.yml", "CITATION.cff"):
        text = (ROOT / name).read_text(encoding="utf-8")
        text, places = re.subn(r"github\.com/[\w-]+/videomae_fast", f"github.com/{owner}/videomae_fast", text)
        text = re.sub(r"[\w-]+\.github\.io", f"{owner}.github.io", text)
        assert places, f"{name} does not say where the repository is"
        (tmp_path / name).write_text(text, encoding="utf-8")
    checks = [step["run"] for step in steps(RELEASE) if "grep" in step.get("run", "")]
    assert len(checks) == 2
    environment = {**os.environ, "GITHUB_REF_NAME": f"v{version}"}
    statuses = [
        subprocess.run(["bash", "-eo", "pipefail", "-c", check], cwd=tmp_path, env=environment).returncode
        for check in checks
    ]
    assert (max(statuses) == 0) == passes
