"""Memory figures of several steps side by side: tables, and a plot."""

from collections.abc import Mapping
from pathlib import Path

from .._optional import require
from .batches import CARDS
from .figures import CATEGORIES, MemoryFigures, markdown_table, mib

Figures = Mapping[str, MemoryFigures]  # by the name of the step


def breakdown_table(figures: Figures, extra: Mapping[str, list[str]] | None = None) -> str:
    """The breakdown of the peak of every step, in MiB.

    Args:
        figures: one or more steps. With several, two rows give the ratios to the first.
        extra: more rows below the peak, by title: one formatted cell for each step.

    Returns:
        A Markdown table, a column each step.
    """
    every = list(figures.values())
    rows = [[category, *(mib(f.breakdown[category]) for f in every)] for category in CATEGORIES]
    for part in ("encoder", "decoder"):
        if any(_made_by(f, part) for f in every):
            rows.append([f"- activations of the {part}", *(mib(_made_by(f, part)) for f in every)])
    rows.append(["**peak**", *(f"**{mib(f.peak_bytes)}**" for f in every)])
    rows += [[title, *cells] for title, cells in (extra or {}).items()]
    above = ["above weights, optimizer, input", *(mib(f.step_bytes) for f in every)]
    if len(every) > 1:
        rows.append(["peak, ratio to the first", *(f"{f.peak_bytes / every[0].peak_bytes:.3f}x" for f in every)])
        rows.append(above)
        rows.append(["above, ratio to the first", *(f"{f.step_bytes / every[0].step_bytes:.3f}x" for f in every)])
    else:
        rows.append(above)
    rows.append(["the peak is in", *(f"{f.peak.phase}: {f.peak.module}" for f in every)])
    return markdown_table(["", *figures], rows)


def batches_table(largest: Mapping[str, Mapping[str, int]]) -> str:
    """The largest batch on every card.

    Args:
        largest: by the name of the step, the result of `largest_batches` for `CARDS`.

    Returns:
        A Markdown table of clips, a row each card.
    """
    rows = [
        [f"{card}, {usable / 2**30:.1f} GiB usable", *(f"{found[card]:,}" for found in largest.values())]
        for card, usable in CARDS.items()
    ]
    return markdown_table(["clips", *largest], rows)


def peaks_table(peaks: Mapping[str, Mapping[str, int]]) -> str:
    """Peak bytes under several settings, in MiB; with several steps, the ratio of the last to the first.

    Args:
        peaks: by the title of the row, the peak of every step in bytes.

    Returns:
        A Markdown table, a column each step.
    """
    names = list(next(iter(peaks.values())))
    rows = []
    for title, found in peaks.items():
        cells = [mib(found[name]) for name in names]
        rows.append([title, *cells, *([f"{found[names[-1]] / found[names[0]]:.3f}x"] if len(names) > 1 else [])])
    return markdown_table(["", *names, *(["ratio"] if len(names) > 1 else [])], rows)


def draw_memory(figures: Figures, title: str, path: Path) -> None:
    """Draw the peaks as stacked bars, and the live memory over each step. Needs matplotlib.

    Args:
        figures: the steps.
        title: what the steps are; the line "Predicted" is added below it.
        path: the file to write, in the format of its suffix.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    figure = require("matplotlib.figure").Figure(figsize=(12, 9), layout="constrained")
    bars, lines = figure.subplots(2, 1)
    floor = [0.0] * len(figures)
    for category in CATEGORIES:
        heights = [f.breakdown[category] / 2**30 for f in figures.values()]
        bars.bar(list(figures), heights, bottom=floor, label=category)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    for name, step in figures.items():
        moments = [moment / len(step.timeline) for moment in range(len(step.timeline))]
        lines.plot(moments, [live / 2**30 for live in step.timeline], label=name)
    figure.suptitle(f"{title}\nPredicted", fontsize="medium")
    bars.set(ylabel="GiB at the peak")
    lines.set(xlabel="the step, in allocations and releases", ylabel="GiB", xlim=(0, 1))
    for axes in (bars, lines):
        axes.legend()
    figure.savefig(path)


def _made_by(figures: MemoryFigures, part: str) -> int:
    return sum(size for path, size in figures.activations.items() if path.split(".")[0] == part)
