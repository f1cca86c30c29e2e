"""What an installation brings, and that the folder `kernels/` never passes for PyPI's package of that name."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from videomae_fast import __version__

ROOT = Path(__file__).parents[2]
PACKAGES = {"videomae_fast": ROOT, "videomae_kernels": ROOT / "kernels"}


def run(*command: str, cwd: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel, built by way of the source distribution from a copy of the sources."""
    pytest.importorskip("build")
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("videomae_fast", "kernels", "tests", "benchmarks", "examples"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(source), cwd=source)
    (wheel,), (sources,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.name == f"videomae_fast-{__version__}-py3-none-any.whl"
    with tarfile.open(sources) as archive:
        rooms = {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}
    assert rooms == {"kernels", "videomae_fast", "videomae_fast.egg-info"}
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_top_level_names(wheel_files: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_files}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES.keys()
    assert len(top) == len(PACKAGES) + 1


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_all_modules_are_in(package: str, wheel_files: set[str]) -> None:
    root = PACKAGES[package]
    files = [*(root / package).rglob("*.py"), root / package / "py.typed"]
    assert {f.relative_to(root).as_posix() for f in files} == {f for f in wheel_files if f.startswith(f"{package}/")}


def test_kernels_is_a_source_root_not_a_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [("-c",), ("-m", "timeit", "-n1", "-r1")], ids=["python -c", "python -m"])
def test_transformers_import_from_the_repository_root(how: tuple[str, ...]) -> None:
    """Both ways put the working directory, and with it `kernels/`, in front on sys.path."""
    pytest.importorskip("transformers")
    run(sys.executable, *how, "from transformers.models.videomae.modeling_videomae import VideoMAEModel", cwd=ROOT)
