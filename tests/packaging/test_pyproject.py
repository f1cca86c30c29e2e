"""Requirements: lower bounds only, and every hint to install an extra names one that exists."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from videomae_fast._optional import EXTRAS as OPTIONAL
from videomae_fast.models.attention import BACKENDS

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
requirements = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [requirements.Requirement(r) for part in [PROJECT["dependencies"], *EXTRAS.values()] for r in part]
SOURCES = sorted([*(ROOT / "videomae_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def expanded(extra: str) -> Iterator:
    """Requirements of an extra, with those of the extras that it names in turn."""
    for requirement in map(requirements.Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                yield from expanded(other)
        else:
            yield requirement


@pytest.mark.parametrize("requirement", [r for r in REQUIRED if r.name != PROJECT["name"]], ids=str)
def test_lower_bounds_only(requirement) -> None:
    assert [specifier.operator for specifier in requirement.specifier] == [">="]


def test_extras_name_extras_that_exist() -> None:
    assert {e for r in REQUIRED if r.name == PROJECT["name"] for e in r.extras} <= EXTRAS.keys()


def test_constraints_pin_what_the_tests_need() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {requirements.Requirement(line) for line in lines if line and not line.startswith("#")}
    assert [str(r) for r in pinned if not str(r.specifier).startswith("==")] == []
    needed = [*map(requirements.Requirement, PROJECT["dependencies"]), *expanded("test")]
    missing = {r.name for r in needed if r.marker is None or r.marker.evaluate()} - {r.name for r in pinned}
    assert missing == set()


def test_hints_name_extras_that_exist() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in SOURCES)
    hinted = {extra for found in re.findall(r"videomae-fast\[([\w,-]+)\]", text) for extra in found.split(",")}
    assert hinted
    assert hinted | set(OPTIONAL.values()) | (BACKENDS.keys() - {"sdpa"}) <= EXTRAS.keys()


def test_required_packages_are_known() -> None:
    """Every `require("package.module")` names a package of the table, and its extra exists."""
    required = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "require":
                required += [(file, a.value.split(".")[0]) for a in node.args if isinstance(a, ast.Constant)]
    assert len(required) > 5
    assert [(file, module) for file, module in required if module not in OPTIONAL] == []
