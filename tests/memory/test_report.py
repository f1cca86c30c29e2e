"""Tables and the picture of memory figures."""

import sys
from pathlib import Path

import pytest
from torch import Tensor, nn, zeros

from videomae_fast._optional import EXTRAS
from videomae_fast.memory import CARDS, MemoryFigures, MemoryProfile
from videomae_fast.memory.figures import CATEGORIES
from videomae_fast.memory.report import batches_table, breakdown_table, draw_memory, peaks_table

MIB = 2**20


class TwoParts(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(512, width), nn.Sigmoid())
        self.decoder = nn.Sequential(nn.Linear(width, 512), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def figures(width: int) -> MemoryFigures:
    model = TwoParts(width)
    with MemoryProfile(model) as profile:
        model(zeros(4096, 512)).square().sum().backward()
    return profile.figures


@pytest.fixture(scope="module")
def steps() -> dict[str, MemoryFigures]:
    return {"small": figures(256), "large": figures(1024)}


def rows(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_one_step_has_no_ratios(steps: dict[str, MemoryFigures]) -> None:
    found = rows(breakdown_table({"small": steps["small"]}))
    assert found[""] == ["small"]
    assert [float(found[c][0].replace(",", "")) for c in CATEGORIES] == [
        pytest.approx(steps["small"].breakdown[c] / MIB, abs=0.51) for c in CATEGORIES
    ]
    assert found["**peak**"] == [f"**{steps['small'].peak_bytes / MIB:,.0f}**"]
    assert not any("ratio" in title for title in found)


def test_several_steps_are_compared_with_the_first(steps: dict[str, MemoryFigures]) -> None:
    found = rows(breakdown_table(steps, {"peak, measured": ["1", "2"]}))
    first, second = steps.values()
    assert found["peak, ratio to the first"] == ["1.000x", f"{second.peak_bytes / first.peak_bytes:.3f}x"]
    assert found["above, ratio to the first"] == ["1.000x", f"{second.step_bytes / first.step_bytes:.3f}x"]
    assert found["peak, measured"] == ["1", "2"]
    kept = [sum(size for path, size in f.activations.items() if path.startswith("encoder")) for f in (first, second)]
    assert found["- activations of the encoder"] == [f"{size / MIB:,.0f}" for size in kept] and min(kept) > 0


def test_batches_and_peaks() -> None:
    found = rows(batches_table({"a": dict.fromkeys(CARDS, 1234), "b": dict.fromkeys(CARDS, 5)}))
    assert found["clips"] == ["a", "b"] and len(found) == 2 + len(CARDS)
    assert found["H200, 137.7 GiB usable"] == ["1,234", "5"]
    assert rows(peaks_table({"x": {"a": 10 * MIB, "b": 5 * MIB}}))["x"] == ["10", "5", "0.500x"]
    assert rows(peaks_table({"x": {"a": 10 * MIB}})) == {"": ["a"], "---": ["---"], "x": ["10"]}


def test_picture(steps: dict[str, MemoryFigures], tmp_path: Path) -> None:
    path = tmp_path / "memory.svg"
    draw_memory(steps, "Two steps", path)
    drawing = path.read_text()
    assert "<svg" in drawing and len(drawing) > 10_000


def test_pictures_need_matplotlib(
    steps: dict[str, MemoryFigures], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=rf"videomae-fast\[{EXTRAS['matplotlib']}\]"):
        draw_memory(steps, "", tmp_path / "memory.png")
