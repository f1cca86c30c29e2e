"""README.md is short, starts with pictures, and its figures and its map of the code are true."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks.harness.plots import dual_mask_memory
from benchmarks.harness.results import PREDICTED, Record, load_newest
from benchmarks.harness.tables import on_gpu
from tests.packaging.pages import FENCE, LINK, ROOT, looked_up_by_ci

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
NEWEST = load_newest(ROOT / "benchmarks" / "results")
(PREDICTIONS,) = (results for results in NEWEST if results["device"] == PREDICTED)
(MEASURED,) = (results for results in NEWEST if results["device"] == "AMD EPYC")


def section(title: str) -> str:
    """The text below a heading of the second level."""
    return re.split(rf"^## {title}.*$", TEXT, flags=re.MULTILINE)[1].partition("\n## ")[0]


def measured(suite: str, name: str, case: str, variant: str) -> Record:
    found = [r for r in MEASURED["records"] if (r["suite"], r["name"], r["variant"]) == (suite, name, variant)]
    (record,) = (record for record in found if case in record["case"])
    return record


def test_length_and_first_picture() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 130
    assert any(line.startswith("![") for line in lines[:12])


def test_pictures_are_small() -> None:
    shown = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", TEXT, re.MULTILINE)
    assert shown == ["docs/images/gallery.jpg", "docs/images/memory.svg"]
    assert all((ROOT / path).stat().st_size < 300_000 for path in shown)


def test_ci_finds_its_commands_and_they_install_pinned_versions() -> None:
    for line in looked_up_by_ci():
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")


def test_the_papers_and_the_published_code_are_linked() -> None:
    targets = LINK.findall(TEXT)
    for target in ("https://arxiv.org/abs/2203.12602", "https://arxiv.org/abs/2303.16727"):
        assert target in targets
    assert "https://github.com/OpenGVLab/VideoMAEv2" in targets
    (definition,) = (paragraph for paragraph in TEXT.split("\n\n") if "*published*" in paragraph)
    assert "OpenGVLab/VideoMAEv2@29eab1e" in definition


def steps(size: str, variant: str) -> tuple[float, float]:
    """Speed and memory of a measured training step, relative to the published code."""
    first, own = measured("model", size, "", "published"), measured("model", size, "", variant)
    return first["p50_ms"] / own["p50_ms"], own["peak_mib"] / first["peak_mib"]


def gib(size: str, variant: str) -> float:
    return dual_mask_memory(PREDICTIONS, size)[variant]["total_mib"] / 2**10


def test_figures_of_the_bullets() -> None:
    """Every number with a unit in the bullets, in their order, is the committed one."""
    memory, speed, loading = re.findall(r"^\* (.*?)(?=^\* |\n\n)", TEXT, re.MULTILINE | re.DOTALL)[:3]
    pairs = [gib(size, variant) for size in ("base", "giant") for variant in ("videomae_fast", "published")]
    assert re.findall(r"[\d.]+ GiB", memory) == [f"{value:.1f} GiB" for value in pairs]
    assert dual_mask_memory(PREDICTIONS, "base")["published"]["case"].startswith("128 clips") and "128 clips" in memory
    small, base = steps("small", "videomae_fast"), steps("base", "videomae_fast")
    shown = [f"{value:.2f}x" for value in (small[0], base[0], small[1], base[1])]
    assert re.findall(r"[\d.]+x\b(?!\d)", speed) == shown
    theirs, ours = (measured("loader", "340x256", "4 crops", variant) for variant in ("published", "videomae_fast"))
    bytes_share = ours["bytes_to_device_per_clip"] / theirs["bytes_to_device_per_clip"]
    assert re.findall(r"[\d.]+x |[\d.]+ %", loading) == [
        f"{theirs['p50_ms'] / ours['p50_ms']:.2f}x ",
        f"{100 * bytes_share:.1f} %",
    ]


def test_figures_of_the_table() -> None:
    """Each row is named after its variants: on a CPU with `+ compile` where the name says so."""
    rows = [line.strip("| ").split(" | ") for line in section("Benchmarks").splitlines() if line.startswith("|")][2:]
    assert [row[0].split(" (")[0] for row in rows] == [
        "published",
        "published + SDPA",
        "published, fused",
        "videomae_fast",
    ]
    for title, *figures in rows:
        on_gpu, _, compiled = title.partition(" (")
        speed, memory = steps("base", f"{on_gpu} + compile" if compiled else on_gpu)
        predicted = dual_mask_memory(PREDICTIONS, "base")[on_gpu]
        assert figures == [f"{speed:.2f}x", f"{memory:.2f}x", f"{gib('base', on_gpu):.1f} GiB", str(predicted["syncs"])]


def test_gpu_figures_are_not_claimed() -> None:
    claim = "**No figure has been measured on a GPU yet.**"
    assert any(map(on_gpu, NEWEST)) != (claim in TEXT)


def test_the_code_map_is_the_tree() -> None:
    """Every line names what exists, and no room of the library is left out."""
    (block,) = (code for language, code in FENCE.findall(section("Code map")) if language == "text")
    paths = [line.split()[0] for line in block.splitlines()]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rooms = {p.name for p in (ROOT / "videomae_fast").iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    assert rooms == {Path(path).name for path in paths if path.startswith("videomae_fast/") and path.endswith("/")}


def test_every_extra_has_its_place() -> None:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [line for line in section("Install").splitlines() if line.startswith("| `")]
    named = {extra for row in rows for extra in re.findall(r"`([\w-]+)`", row.split(" | ")[0])}
    assert named == project["optional-dependencies"].keys()
