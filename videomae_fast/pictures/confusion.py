"""The picture of an evaluation: which classes are taken for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._files import atomic_write, disk_errors
from .._optional import require
from .._text import printable

NAMED = 40  # classes; names of more would not be legible
COUNTED = 20  # classes; numbers in the cells of more would not be legible
NAME_LENGTH = 24


def save_confusion(confusion: np.ndarray, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, each row divided by the number of its videos.

    Args:
        confusion: (C, C) counts; a row is a true class, a column a predicted one.
        class_names: names of the C classes; empty for numbers.
        path: file of the picture; its suffix names the format, for example .png or .svg.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the disk is full or broken.
    """
    figure = draw_confusion(confusion, class_names)
    with disk_errors(path), atomic_write(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:] or None)


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str] = ()) -> Any:
    """Draw a confusion matrix as a figure.

    Args:
        confusion: (C, C) counts; a row is a true class, a column a predicted one.
        class_names: names of the C classes; empty for numbers.

    Returns:
        A `matplotlib.figure.Figure`. Up to COUNTED classes have their counts in the cells, and up to NAMED their names
        at the edges.
    """
    classes = len(confusion)
    side = min(16.0, max(5.0, 0.35 * classes + 2))
    figure = require("matplotlib.figure").Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the videos of the true class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if classes <= NAMED:
        names = [printable(name)[:NAME_LENGTH] for name in class_names] or [str(k) for k in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=8, parse_math=False)
    if classes <= COUNTED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7, color=colour)
    return figure
