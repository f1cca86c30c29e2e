"""Where the time of a run goes, and what it is told to change."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.training import tiny
from videomae_fast.training.advice import HIGH_WAIT, Advisor, waiting_advice
from videomae_fast.training.meter import Meter, Window

HIGH = Window(steps=10, elapsed=10.0, waited=6.0, loading=20.0)  # a step: 2 s of loading, 0.4 s of training
LOW = HIGH._replace(waited=HIGH_WAIT * 10 - 0.01)


def meter(device: str) -> Meter:
    accelerator = SimpleNamespace(device=torch.device(device), reduce=lambda losses, reduction: losses)
    return Meter(accelerator, clips_per_step=4, steps_per_epoch=2)


def test_window() -> None:
    found = meter("cpu")
    for step in range(3):
        with found.waiting():
            time.sleep(0.1)
        time.sleep(0.05)
        found.add(torch.tensor(float(step)), 0.1, loading=0.25)
    rows = found.flush(3)
    assert [row["loss"] for row in rows] == [0, 1, 2] and [row["step"] for row in rows] == [1, 2, 3]
    steps, elapsed, waited, loading = found.window
    assert steps == 3 and loading == 0.75
    assert 0.3 <= waited < elapsed - 0.15
    assert rows[0]["data_wait"] == pytest.approx(waited / elapsed, abs=1e-4)
    assert found.flush(3) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_no_wait_while_the_gpu_is_busy() -> None:
    found = meter("cuda")
    x = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    with found.waiting():
        time.sleep(0.2)  # it has nothing to do
    torch.cuda._sleep(int(2e9))  # about a second
    with found.waiting():
        time.sleep(0.2)  # it is busy
    found.add(x.sum(), 0.1, loading=0.0)
    found.flush(1)
    assert 0.19 < found.window.waited < 0.25


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (2, 8, "there are 2, on 8 cores. Use --workers 5"),
        (0, 8, "there are 0, on 8 cores. Use --workers 5"),
        (2, 4, "on 4 cores. Make the videos cheaper to decode (videomae-fast transcode, or --short-side), or cut more"),
        (6, 8, "on 8 cores. That should do: see what else"),
    ],
)
def test_advice(workers: int, cores: int, expected: str) -> None:
    line = waiting_advice(HIGH, workers, cores)
    assert line.startswith(
        "60% of the time is waiting for videos: a batch takes a worker 2.00 s and the model 0.40 s, "
    )
    assert "which 5 workers would keep up with" in line and expected in line


def test_a_run_is_advised_once_and_not_while_it_starts() -> None:
    advisor = Advisor(workers=1, cores=2)
    found = [bool(advisor.advice(window)) for window in (HIGH, LOW, HIGH, HIGH)]
    assert found == [False, False, True, False]
    assert Advisor(workers=1).cores >= 1


def test_a_run_that_waits_says_what_to_change(
    videos: Path, tmp_path: Path, tiny_size: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from videomae_fast.data import ClipDataset
    from videomae_fast.training import pretrain

    decode = ClipDataset.decode

    def slowly(*arguments: object) -> torch.Tensor:
        time.sleep(0.2)
        return decode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipDataset, "decode", slowly)
    pretrain(tiny.settings(videos, tmp_path / "run", max_steps=9))
    said = [line for line in capsys.readouterr().out.splitlines() if "waiting for videos" in line]
    assert len(said) == 1 and "there are 0, on" in said[0]
