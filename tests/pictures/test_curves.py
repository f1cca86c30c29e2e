"""The curves show the log."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from videomae_fast.engine.log import COLUMNS, EVALUATIONS
from videomae_fast.pictures.curves import draw_curves, save_curves


def _steps(count: int) -> list[dict[str, str]]:
    return [
        dict(zip(COLUMNS, map(str, (n, 0, 1 / n, n / 10, 5 + n, 0.25, 99)), strict=True)) for n in range(1, count + 1)
    ]


def test_every_panel_has_its_column() -> None:
    steps = _steps(4)
    loss, rate, speed, wait = draw_curves(steps, []).axes
    for axes, column in ((loss, "loss"), (rate, "lr"), (speed, "clips_per_second"), (wait, "data_wait")):
        (line,) = axes.get_lines()
        assert list(line.get_xdata()) == [1, 2, 3, 4]
        assert list(line.get_ydata()) == [float(row[column]) for row in steps]
    assert loss.get_legend() is None


def test_evaluations_are_dots_beside_the_loss() -> None:
    loss, *others = draw_curves(_steps(4), [{"step": "2", "loss": "0.75"}, {"step": "4", "loss": "0.5"}]).axes
    _, dots = loss.get_lines()
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([2, 4], [0.75, 0.5])
    assert dots.get_linestyle() == "None" and loss.get_legend() is not None
    assert all(len(axes.get_lines()) == 1 for axes in others)


def test_accuracies_of_evaluations_have_a_panel() -> None:
    """Whatever names them; what else eval.csv holds is not drawn."""
    first = {"step": "2", "loss": "0.75", "top1": "0.25", "top5": "0.5", "mean_class_accuracy": "nan", "videos": "9"}
    last = {"step": "4", "loss": "0.5", "top1": "0.5", "top5": "1.0", "mean_class_accuracy": "0.75", "videos": "9"}
    plain, figure = draw_curves(_steps(4), []), draw_curves(_steps(4), [first, last])
    *others, panel = figure.axes
    assert [axes.get_title() for axes in others] == [axes.get_title() for axes in plain.axes]
    assert [line.get_label() for line in panel.get_lines()] == ["top1", "top5", "mean_class_accuracy"]
    assert [list(line.get_xdata()) for line in panel.get_lines()] == [[2, 4]] * 3
    top1, top5, mean = (list(line.get_ydata()) for line in panel.get_lines())
    assert top1 == [0.25, 0.5] and top5 == [0.5, 1.0] and mean[1] == 0.75
    assert panel.get_title() == "accuracy" and panel.get_ylim() == (0, 1) and panel.get_legend() is not None
    probed = draw_curves(_steps(2), [{"step": "2", "knn_top1": "0.5"}]).axes
    assert [line.get_label() for line in probed[-1].get_lines()] == ["knn_top1"]
    places = [[axes.get_subplotspec().get_geometry()[:3] for axes in drawn.axes] for drawn in (plain, figure)]
    assert places == [[(2, 2, place) for place in range(4)], [(2, 3, place) for place in (0, 1, 3, 4, 2)]]
    assert plain.get_size_inches().tolist() == [11, 6]


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_files_of_a_run(count: int, tmp_path: Path) -> None:
    rows = "".join(",".join(row.values()) + "\n" for row in _steps(count))
    (tmp_path / "log.csv").write_text(",".join(COLUMNS) + "\n" + rows)
    (tmp_path / EVALUATIONS).write_text("step,loss\n1,0.5\n")
    save_curves(tmp_path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
        assert len(set(picture.convert("L").tobytes())) > 2


def test_missing_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'videomae-fast\[train\]'"):
        save_curves(tmp_path, tmp_path / "curves.png")
