"""The curves of a run from its log: loss, learning rate, speed, and the share of time that waits for data."""

from pathlib import Path
from typing import Any

from .._files import atomic_write, disk_errors
from .._optional import require
from ..engine.log import EVALUATIONS, read_log

PANELS = (
    ("loss", "loss"),
    ("lr", "learning rate"),
    ("clips_per_second", "clips per second"),
    ("data_wait", "share of the time that waits for data"),
)


def save_curves(output: Path, path: Path) -> None:
    """Draw log.csv and, if the run has one, eval.csv into a picture.

    Args:
        output: folder of a run.
        path: file of the picture; its suffix names the format, for example .png or .svg.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the disk is full or broken.
    """
    figure = draw_curves(read_log(output), read_log(output, EVALUATIONS))
    with disk_errors(path), atomic_write(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:] or None)


def draw_curves(steps: list[dict[str, str]], evaluations: list[dict[str, str]]) -> Any:
    """Draw the curves as a figure with a panel for each of `PANELS`.

    Args:
        steps: rows of log.csv.
        evaluations: rows of eval.csv; their losses are dots in the panel of the loss.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = require("matplotlib.figure").Figure(figsize=(11, 6), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.plot(_values(steps, "step"), _values(steps, column), linewidth=1, label="training")
        if column == "loss" and evaluations and column in evaluations[0]:
            axes.plot(_values(evaluations, "step"), _values(evaluations, column), "o", markersize=4, label="evaluation")
            axes.legend()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
        if column == "data_wait":
            axes.set_ylim(0, 1)
    return figure


def _values(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows]
