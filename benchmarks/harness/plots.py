"""Plots of benchmark results, SVG: ops against the copy roofline, steps by speed and memory, loading by parts.

And predictions: the memory of pre-training steps, and that of contrastive steps by frames and mask ratio.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.contrast import steps as contrast
from benchmarks.harness.results import Record, Results, by_case, pictures
from benchmarks.harness.targets import COMPILED, OURS, PUBLISHED
from videomae_fast._optional import require

PARTS = {"decode": "#8a8f98", "augment": "#d98e32", "collate": "#1b7f5c"}  # of a loader's work
COLOURS = {OURS: "#1b7f5c", COMPILED: "#d98e32", PUBLISHED: "#8a8f98"}
FRAME_COLOURS = ("#1b7f5c", "#d98e32", "#4464ad", "#8e3b6f")  # of a contrastive step, by frames of a clip
MEMORY_SIZES = ("base", "giant")
MEMORY_BARS = {PUBLISHED: "#8a8f98", "published + SDPA": "#d98e32", "videomae_fast": "#1b7f5c"}


def save_plots(devices: Iterable[Results], folder: Path) -> list[Path]:
    """Write the plots of all results (`results.pictures`) into `folder`. Returns the files written.

    Needs matplotlib (extra "bench"). The same results give the same bytes.
    """
    matplotlib = require("matplotlib")
    written = []
    # No date and no random ids; text stays text, in the reader's font.
    with matplotlib.rc_context({"svg.hashsalt": "videomae_fast", "svg.fonttype": "none", "font.size": 8}):
        for results in devices:
            for name, records in pictures(results).items():
                figure = _FIGURES[records[0]["suite"]](records, results)
                figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None, "Creator": None})
                written.append(folder / name)
    return written


def save_memory_bars(predicted: Results, path: Path) -> list[Path]:
    """Draw the predicted peak of a step with both masks, `MEMORY_SIZES` beside each other: the plot in README.md.

    Needs matplotlib (extra "bench"). The same results give the same bytes. Returns the file written, or no
    file if a bar is missing from the results.
    """
    matplotlib = require("matplotlib")
    memory = {size: dual_mask_memory(predicted, size) for size in MEMORY_SIZES}
    if any(MEMORY_BARS.keys() - bars.keys() for bars in memory.values()):
        return []
    with matplotlib.rc_context({"svg.hashsalt": "videomae_fast", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = _axes(len(MEMORY_SIZES), height=1.6)
        for axis, (size, bars) in zip(axes, memory.items(), strict=True):
            gib = [bars[variant]["total_mib"] / 2**10 for variant in MEMORY_BARS]
            bar = axis.barh(list(MEMORY_BARS), gib, 0.7, color=list(MEMORY_BARS.values()))
            axis.bar_label(bar, [f"{value:.1f} GiB" for value in gib], padding=3)
            axis.set_title(f"ViT-{size}, {bars[PUBLISHED]['case'].split(',')[0]}", loc="left")
            axis.set_xlim(0, 1.2 * max(gib))
            axis.set_xticks([])
            axis.spines["bottom"].set_visible(False)
            axis.invert_yaxis()
        axes[-1].set_yticks([])
        figure.suptitle("Predicted peak memory of a training step, bf16, no activation checkpointing")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return [path]


def dual_mask_memory(predicted: Results, size: str) -> dict[str, Record]:
    """The predictions for a step of `size` with the published encoder and decoder masks, by variant."""
    found = [r for r in predicted["records"] if r["suite"] == "memory" and r["name"] == size]
    return {r["variant"]: r for r in found if "no decoder mask" not in r["case"]}


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
    figure, axes = _axes(2, height=_height(records))
    at = _label(axes[0], records, "ViT-")
    colours = [COLOURS[OURS if r["variant"].startswith("videomae_fast") else PUBLISHED] for r in records]
    for axis, figure_name in zip(axes, ("clips_per_s", "peak_mib"), strict=True):
        axis.barh(at, [r[figure_name] for r in records], 0.8, color=colours)
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    axes[0].set_xlabel("clips/s, median")
    axes[1].set_xlabel("peak MiB")
    figure.suptitle(
        f"Training steps, {results['device']}, {results['commit']}; memory above weights, optimizer state and input"
    )
    return figure


def _loading_figure(records: list[Record], results: Results) -> Any:
    """Bars of processor time per clip, stacked from its parts, a group for each case."""
    figure, (axis,) = _axes(1, height=_height(records))
    at, left = _label(axis, records, ""), [0.0] * len(records)
    for part, colour in PARTS.items():
        width = [r[f"{part}_ms"] for r in records]
        axis.barh(at, width, 0.8, left=left, color=colour, label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axis.set_xlabel("processor ms per clip, one thread, medians")
    axis.set_title(f"Loading, {records[0]['processor']}, {results['commit']}")
    axis.legend(frameon=False)
    return figure


def _contrast_figure(records: list[Record], results: Results) -> Any:
    """Lines of memory against mask ratio, a colour for each number of frames, ours solid and naive dashed."""
    figure, axes = _axes(2, height=3.2)
    axes[1].sharey(axes[0])
    memory = {(r["frames"], r["variant"], r["mask_ratio"]): r["mib_per_clip"] for r in records}
    frames, ratios = (sorted({found[place] for found in memory}) for place in (0, 2))
    panels = {"all trained": contrast.ALL_TRAINED, "last 4 blocks trained": contrast.LAST_TRAINED[1:]}
    for axis, (title, variants) in zip(axes, panels.items(), strict=True):
        for number, colour in zip(frames, FRAME_COLOURS, strict=False):
            for variant, style in zip(variants, ("--", "-"), strict=True):
                mib = [memory[number, variant, ratio] for ratio in ratios]
                kind = "naive" if style == "--" else "videomae_fast"
                axis.plot(ratios, mib, style, color=colour, marker=".", label=f"{number} frames, {kind}")
        axis.set_title(title, loc="left")
        axis.set_xlabel("share of tokens hidden")
        axis.set_xticks(ratios)
    axes[0].set_yscale("log", base=2)
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes[0].set_ylabel("MiB of a further clip")
    axes[1].tick_params(labelleft=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(f"Predicted memory of a contrastive step, ViT-{records[0]['name']}, bf16")
    return figure


_FIGURES = {"ops": _ops_figure, "model": _steps_figure, "loader": _loading_figure, "contrast": _contrast_figure}


def _height(records: list[Record]) -> float:
    return 0.8 + 0.25 * (len(records) + len(list(by_case(records))))


def _label(axis: Any, records: list[Record], prefix: str) -> list[float]:
    """Name every record on the axis from top to bottom, below its case. Returns where the bars go."""
    top, ticks, places = 0.0, [], []
    for name, case, rows in by_case(records):
        ticks.append((top, f"{prefix}{name}, {case}"))
        places += [top + row for row in range(1, len(rows) + 1)]
        ticks += [(top + row, record["variant"]) for row, record in enumerate(rows, start=1)]
        top += len(rows) + 1.3
    axis.set_yticks(*zip(*ticks, strict=True))
    axis.set_ylim(top - 0.6, -0.6)
    return places


def _axes(columns: int, height: float) -> tuple[Any, list[Any]]:
    figure = require("matplotlib.figure").Figure(figsize=(4 + 3 * columns, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
