"""The package by itself: numpy and Triton are all that it needs, in a process where Triton compiles."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent


def python(*words: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH")}
    process = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The folder alone, without this repository around it, and with a PyTorch that cannot be imported."""
    shutil.copytree(HERE, tmp_path / "ptx", ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    (tmp_path / "torch.py").write_text("raise ImportError('not needed')")
    return tmp_path


def test_the_example_runs_without_torch_and_elsewhere(copied):
    printed = python("ptx/example.py", cwd=copied)
    for target in ("sm_80", "sm_90"):
        assert re.search(
            rf"softmax on {target}: \d+ warp instructions, \d+ barriers\n  24 loads of 2400 bytes in", printed
        )
    assert re.search(r"without its mask: softmax, example\.py:\d+, `.*ld\.global.*lanes out of bounds", printed)


def test_nothing_but_numpy_and_triton_is_imported():
    ours = {path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_")} - {"programs"}
    for path in HERE.glob("*.py"):
        if path.stem in ours:
            roots = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
            assert roots - sys.stdlib_module_names <= {"numpy", "triton", "ptx"}, path.name
