"""Tests of a missing optional package are skipped; a process that a CUDA error has ruined ends."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import conftest

ROOT = Path(__file__).parents[1]
FOLDER = {
    "conftest.py": "from tests.conftest import OptionalPackages\n"
    "def pytest_configure(config):\n    config.pluginmanager.register(OptionalPackages())\n",
    "test_optional.py": "import xformers\ndef test_one(): pass\n",
    "test_own.py": "{own}\ndef test_two(): pass\n",
    "inner/conftest.py": "from xformers import ops\n",
    "inner/test_inner.py": "def test_three(): pass\n",
}


def collect(folder: Path, own: str) -> subprocess.CompletedProcess[str]:
    for name, text in FOLDER.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.replace("{own}", own))
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT} {ROOT / 'kernels'}\n")
    command = [sys.executable, "-m", "pytest", "-ra", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    return subprocess.run([*command, str(folder)], capture_output=True, text=True, cwd=folder)


def test_a_missing_optional_package_skips_its_tests(tmp_path: Path) -> None:
    done = collect(tmp_path, own="")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("xformers is not installed (extra 'xformers')") == 2 and "1 passed" in done.stdout


def test_any_other_missing_package_is_an_error(tmp_path: Path) -> None:
    done = collect(tmp_path, own="import no_such_package")
    assert done.returncode != 0 and "No module named 'no_such_package'" in done.stdout


def test_a_ruined_process_ends(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Only a worker of pytest-xdist: another one takes its place."""
    ended: list[int] = []
    monkeypatch.setattr(conftest.os, "_exit", ended.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    conftest.pytest_runtest_setup(request.node)
    assert ended == []

    def ruined() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", ruined)
    conftest.pytest_runtest_setup(request.node)
    assert ended == [1]
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    conftest.pytest_runtest_setup(request.node)
    assert ended == [1]
