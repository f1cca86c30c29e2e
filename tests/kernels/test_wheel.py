"""The kernels alone make a wheel that needs nothing else of this repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.test_wheel import run as run_clean

KERNELS = Path(__file__).parents[2] / "kernels"

USE = """
import sys
sys.path.insert(0, {folder!r})
import torch, videomae_kernels
assert videomae_kernels.__file__.startswith({folder!r}), videomae_kernels.__file__
index = videomae_kernels.tube_mask_index(torch.arange(2), (2, 4, 4), 0.5, seed=0)
print(videomae_kernels.gather_tokens(torch.ones(2, 32, 5), index).shape, "videomae_fast" in sys.modules)
"""


def field(name: str, path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name} = ")]
    return lines[0]


@pytest.mark.parametrize("name", ["license", "requires-python", "triton"])  # the version: test_community
def test_both_packages_agree(name: str) -> None:
    assert field(name, KERNELS / "pyproject.toml") == field(name, KERNELS.parent / "pyproject.toml")


def test_the_licence_is_the_same() -> None:
    assert (KERNELS / "LICENSE").read_bytes() == (KERNELS.parent / "LICENSE").read_bytes()


@pytest.mark.slow
def test_an_installed_wheel_works(tmp_path: Path) -> None:
    pytest.importorskip("build")
    source, dist, folder = tmp_path / "kernels", tmp_path / "dist", tmp_path / "site"
    shutil.copytree(KERNELS, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    run_clean(sys.executable, "-m", "build", "--outdir", str(dist), str(source), cwd=tmp_path)
    (wheel,) = dist.glob("*.whl")
    install = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    run_clean(*install, cwd=tmp_path)
    files = {path.relative_to(folder).as_posix() for path in (folder / "videomae_kernels").rglob("*.py")}
    assert files == {path.relative_to(KERNELS).as_posix() for path in (KERNELS / "videomae_kernels").rglob("*.py")}
    assert (folder / "videomae_kernels" / "py.typed").exists()
    command = [sys.executable, "-I", "-c", USE.format(folder=str(folder))]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert process.stdout.strip() == "torch.Size([2, 16, 5]) False", process.stdout + process.stderr
