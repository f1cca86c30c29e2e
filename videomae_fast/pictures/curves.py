"""The curves of a run from its log: loss, learning rate, speed, waiting for data, and the accuracies of evaluations."""

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
ACCURACIES = ("top1", "top5", "accuracy")  # what their columns of eval.csv end with


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
    """Draw the curves as a figure with a panel for each of `PANELS`, and one of accuracies if there are some.

    Args:
        steps: rows of log.csv.
        evaluations: rows of eval.csv. Their losses are dots in the panel of the loss; columns whose names end with one
            of ACCURACIES, which are in [0, 1], are lines with dots in a panel of their own.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    accuracies = [column for column in (evaluations[0] if evaluations else ()) if column.endswith(ACCURACIES)]
    columns = 3 if accuracies else 2
    figure = require("matplotlib.figure").Figure(figsize=(5.5 * columns, 6), layout="constrained")
    places = [figure.add_subplot(2, columns, number) for number in (1, 2, columns + 1, columns + 2)]
    for axes, (column, title) in zip(places, PANELS, strict=True):
        axes.plot(_values(steps, "step"), _values(steps, column), linewidth=1, label="training")
        if column == "loss" and evaluations and column in evaluations[0]:
            axes.plot(_values(evaluations, "step"), _values(evaluations, column), "o", markersize=4, label="evaluation")
            axes.legend()
        _label(axes, title, share=column == "data_wait")
    if accuracies:
        axes = figure.add_subplot(2, columns, columns)
        for column in accuracies:
            axes.plot(_values(evaluations, "step"), _values(evaluations, column), "o-", markersize=4, label=column)
        axes.legend()
        _label(axes, "accuracy", share=True)
    return figure


def _label(axes: Any, title: str, share: bool) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.grid(alpha=0.3)
    if share:
        axes.set_ylim(0, 1)


def _values(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows]
