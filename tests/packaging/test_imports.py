"""Imports go one way, and nothing optional is needed to import the library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from videomae_fast._optional import EXTRAS as OPTIONAL

ROOT = Path(__file__).parents[2]
PACKAGES = {"videomae_fast": ROOT, "videomae_kernels": ROOT / "kernels"}
# Rooms of videomae_fast, from the lowest level to the highest: each imports from itself and from the levels below it.
LEVELS = (
    {"_files", "_json", "_lock", "_optional", "_shards"},
    {"_text"},
    {"masks", "memory"},
    {"models", "data"},
    {"engine", "interop", "environment"},
    {"recipes"},
    {"pictures"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for package in map(importlib.import_module, ("videomae_fast", "videomae_kernels")):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not {"triton", "_tiling", "__main__"} & set(module.name.split(".")):
            importlib.import_module(module.name)
            print(module.name)
"""


def sources(package: str) -> list[Path]:
    return sorted((PACKAGES[package] / package).rglob("*.py"))


def module_name(file: Path, package: str) -> str:
    parts = file.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, package: str) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it; `from a import b` counts as a.b."""
    parents = file.relative_to(PACKAGES[package]).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = parents[: len(parents) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """The part of its package that a module belongs to; "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def test_rooms_are_all_known() -> None:
    names = {room(module_name(file, "videomae_fast")) for file in sources("videomae_fast")}
    assert names - {""} == LEVEL.keys(), "LEVELS must name every room of videomae_fast, and no other"


@pytest.mark.parametrize("file", sources("videomae_fast"), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_rooms_import_downwards(file: Path) -> None:
    own = room(module_name(file, "videomae_fast"))
    for name in imported(file, "videomae_fast"):
        assert name.split(".")[0] not in ("benchmarks", "tests"), f"{own} must not import {name}"
        other = room(name)
        if own != "" and name.split(".")[0] == "videomae_fast" and other in LEVEL:  # "" collects what is public
            assert own == other or LEVEL[other] < LEVEL[own], f"{own} must not import {name}"


def test_kernels_do_not_import_the_models() -> None:
    for file in sources("videomae_kernels"):
        assert [n for n in imported(file, "videomae_kernels") if n.split(".")[0] == "videomae_fast"] == [], file


def test_triton_is_imported_by_the_kernels_only() -> None:
    for package in PACKAGES:
        for file in sources(package):
            if not {"triton", "_tiling"} & set(file.with_suffix("").relative_to(PACKAGES[package]).parts[1:]):
                assert [name for name in imported(file, package) if name.split(".")[0] == "triton"] == [], file


def test_everything_imports_without_optional_packages() -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", f"OPTIONAL = {[*OPTIONAL, 'av']}{IMPORT_EVERYTHING}"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", timeout=120)
    assert process.returncode == 0, process.stderr
    assert {"videomae_fast.masks", "videomae_kernels.tokens.embed"} <= set(process.stdout.split())
