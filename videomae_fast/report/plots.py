"""Pictures of benchmark results, SVG: ops against the copy roofline, steps by speed and memory."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from .._optional import require
from .results import Record, Results, pictures
from .tables import OUR_OP, PUBLISHED, RIVAL

COLOURS = {OUR_OP: "#1b7f5c", RIVAL: "#d98e32", PUBLISHED: "#8a8f98"}


def save_plots(devices: Iterable[Results], folder: Path) -> list[Path]:
    """Write the pictures of all results (`results.pictures`) into `folder`; the files written.

    Needs matplotlib (extra "bench"). The same results give the same bytes. Predicted figures have no pictures here.
    """
    matplotlib = require("matplotlib", "bench")
    written = []
    # No date and no random ids; text stays text, in the reader's font.
    with matplotlib.rc_context({"svg.hashsalt": "videomae_fast", "svg.fonttype": "none", "font.size": 8}):
        for results in devices:
            for name, records in pictures(results).items():
                figure = (_ops_figure if records[0]["suite"] == "ops" else _steps_figure)(records, results)
                figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None, "Creator": None})
                written.append(folder / name)
    return written


def _ops_figure(records: list[Record], results: Results) -> Any:
    """Bars of GB/s, a group for each case of an op, and the bandwidth of a copy."""
    cases = list(dict.fromkeys((r["name"], r["case"]) for r in records))
    figure, axes = _axes(1, height=0.8 + 0.45 * len(cases))
    (axis,) = axes
    for offset, (variant, colour) in zip((-0.27, 0.0, 0.27), COLOURS.items(), strict=True):
        shown = [(cases.index((r["name"], r["case"])), r["gb_per_s"]) for r in records if r["variant"] == variant]
        axis.barh([at + offset for at, _ in shown], [value for _, value in shown], 0.26, color=colour, label=variant)
    axis.axvline(results["copy_gb_per_s"], color="black", linewidth=0.8, linestyle="--", label="copy of the same run")
    axis.set_yticks(range(len(cases)), [f"{name}\n{case.split(', ', 1)[1]}" for name, case in cases])
    axis.set_ylim(len(cases) - 0.4, -0.6)
    axis.set_xlabel("GB/s: needed bytes of inputs and outputs, once, per median time")
    axis.set_title(f"Ops at the shapes of ViT-{records[0]['size']}, {results['device']}, {results['commit']}")
    axis.legend(frameon=False)
    return figure


def _steps_figure(records: list[Record], results: Results) -> Any:
    """Bars of clips/s and of peak memory beside each other, a group for each case."""
    groups = [(key, list(rows)) for key, rows in groupby(records, lambda r: (r["name"], r["case"]))]
    figure, axes = _axes(2, height=0.8 + 0.25 * (len(records) + len(groups)))
    at, ticks = 0.0, []
    for (name, case), rows in groups:
        ticks.append((at, f"ViT-{name}, {case}"))
        for row in rows:
            at += 1
            colour = COLOURS[OUR_OP] if row["variant"].startswith("videomae_fast") else COLOURS[PUBLISHED]
            for axis, figure_name in zip(axes, ("clips_per_s", "peak_mib"), strict=True):
                axis.barh(at, row[figure_name], 0.8, color=colour)
            ticks.append((at, row["variant"]))
        at += 1.3
    axes[0].set_yticks(*zip(*ticks, strict=True))
    axes[0].set_ylim(at - 0.6, -0.6)
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    axes[0].set_xlabel("clips/s, median")
    axes[1].set_xlabel("peak MiB")
    figure.suptitle(
        f"Training steps, {results['device']}, {results['commit']}; memory above weights, optimizer state and input"
    )
    return figure


def _axes(columns: int, height: float) -> tuple[Any, list[Any]]:
    figure = require("matplotlib.figure", "bench").Figure(figsize=(4 + 3 * columns, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
