"""The figures and pictures in README.md are those of the committed results."""

import re
from pathlib import Path

import pytest

from benchmarks.harness.results import load, slug
from benchmarks.harness.run import END, START, results_section

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "results"
FILES = sorted(FOLDER.glob("*/*.json"))


def test_readme_shows_the_committed_results_and_no_others() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme[readme.index(START) : readme.index(END)]
    assert shown == results_section(ROOT), "after new results: videomae-fast bench --report"


def test_readme_shows_every_picture_and_no_others() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(benchmarks/results/([^)]*\.svg)\)", readme))
    assert shown == {path.name for path in FOLDER.glob("*.svg")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_results_lie_where_they_belong(path: Path) -> None:
    results = load(path)
    assert path.stem == results["commit"]
    assert "dirty" not in results["commit"], "measured with files that are in no commit"
    assert path.parent.name == slug(results["device"])
    assert {record["predicted"] for record in results["records"]} == {results["device"] == "predicted"}


def test_there_are_results() -> None:
    assert FILES
