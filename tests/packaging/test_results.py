"""The figures and plots in docs/benchmarks.md are those of the committed results."""

import re
from pathlib import Path

import pytest

from benchmarks.harness.plots import MEMORY_BARS, MEMORY_SIZES, dual_mask_memory, save_memory_bars
from benchmarks.harness.results import PREDICTED, load, load_newest, slug
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


def test_memory_bars_are_the_committed_predictions(tmp_path: Path) -> None:
    """Every bar carries its figure, in the committed picture as in one drawn now."""
    (predicted,) = (results for results in load_newest(FOLDER) if results["device"] == PREDICTED)
    bars = {size: dual_mask_memory(predicted, size) for size in MEMORY_SIZES}
    wanted = [f"{bars[size][variant]['total_mib'] / 2**10:.1f} GiB" for size in MEMORY_SIZES for variant in MEMORY_BARS]
    (drawn,) = save_memory_bars(predicted, tmp_path / "memory.svg")
    for picture in (drawn, IMAGES / "memory.svg"):
        assert re.findall(r">([\d.]+ GiB)<", picture.read_text(encoding="utf-8")) == wanted
    assert save_memory_bars({**predicted, "records": []}, tmp_path / "none.svg") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_results_lie_where_they_belong(path: Path) -> None:
    results = load(path)
    assert path.stem == results["commit"]
    assert "dirty" not in results["commit"], "measured with files that are in no commit"
    assert path.parent.name == slug(results["device"])
    assert {record["predicted"] for record in results["records"]} == {results["device"] == "predicted"}


def test_there_are_results() -> None:
    assert FILES
