"""The figures and plots in docs/benchmarks.md are those of the committed results."""

import re
from pathlib import Path

import pytest

from benchmarks.harness.results import load, slug
from benchmarks.harness.run import END, START, results_section

ROOT = Path(__file__).parents[2]
FOLDER, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
FILES = sorted(FOLDER.glob("*/*.json"))


def page() -> str:
    return (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_the_page_shows_the_committed_results_and_no_others() -> None:
    shown = page()[page().index(START) : page().index(END)]
    assert shown == results_section(ROOT), "after new results: python -m benchmarks --report"


def test_the_page_shows_every_plot_and_no_others() -> None:
    plots = {path.name for path in IMAGES.glob("*.svg")} - {"memory.svg"}  # which README.md shows
    assert set(re.findall(r"\]\(images/([^)]*\.svg)\)", page())) == plots


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_results_lie_where_they_belong(path: Path) -> None:
    results = load(path)
    assert path.stem == results["commit"]
    assert "dirty" not in results["commit"], "measured with files that are in no commit"
    assert path.parent.name == slug(results["device"])
    assert {record["predicted"] for record in results["records"]} == {results["device"] == "predicted"}


def test_there_are_results() -> None:
    assert FILES
