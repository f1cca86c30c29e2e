"""The confusion picture: counts and names where they are legible, shares in any case."""

from pathlib import Path

import numpy as np
import pytest

from videomae_fast.pictures.confusion import COUNTED, NAMED, draw_confusion, save_confusion

pytest.importorskip("matplotlib")


def test_cells_and_names() -> None:
    axes = draw_confusion(np.array([[3, 1], [0, 2]]), ["cut", "fo$ld$\n"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "2"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cut", r"fo$ld$\n"]
    assert axes.get_xlabel() == "predicted class" and axes.get_ylabel() == "true class"


def test_classes_without_names_have_numbers() -> None:
    axes = draw_confusion(np.eye(3, dtype=np.int64)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]


def test_many_classes_are_only_colours() -> None:
    axes = draw_confusion(np.eye(NAMED + 1, dtype=np.int64), [str(k) for k in range(NAMED + 1)]).axes[0]
    assert NAMED > COUNTED and not axes.texts and len(axes.get_xticks()) < NAMED


def test_a_class_without_videos_is_a_white_row(tmp_path: Path) -> None:
    save_confusion(np.array([[0, 0], [1, 1]]), [], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
