"""The timings of a run, and the hint about its bottleneck."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.data import ClipDataset
from videomae_fast.engine.timing import HIGH_WAIT, Timing, bottleneck
from videomae_fast.recipes.pretrain import pretrain

HIGH = {"steps": 10, "elapsed": 10.0, "waited": 6.0, "loading": 20.0}  # a step: 2 s of loading, 0.4 s of training


def timing(device: str, workers: int = 0, cores: int | None = None) -> Timing:
    accelerator = SimpleNamespace(device=torch.device(device), reduce=lambda losses, reduction: losses)
    return Timing(accelerator, clips_per_step=4, steps_per_epoch=2, workers=workers, cheaper="Decode less", cores=cores)


def test_window() -> None:
    found = timing("cpu")
    start = time.perf_counter()
    for step in range(3):
        with found.waiting():
            time.sleep(0.1)
        time.sleep(0.05)
        found.add(torch.tensor(float(step)), 0.1, 0.25, {"accuracy": torch.tensor(2.0 * step)})
    assert found.loading == 0.75
    rows, _ = found.flush(3)
    elapsed = time.perf_counter() - start
    assert [row["loss"] for row in rows] == [0, 1, 2] and [row["step"] for row in rows] == [1, 2, 3]
    assert [row["accuracy"] for row in rows] == [0, 2, 4]
    waited = rows[0]["data_wait"] * elapsed
    assert waited + 0.01 >= 0.3 and waited < elapsed - 0.15
    assert rows[0]["clips_per_second"] == pytest.approx(12 / elapsed, rel=0.1)
    assert found.flush(3) == ([], "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_no_wait_while_the_gpu_is_busy() -> None:
    x = torch.zeros(1, device="cuda")
    x.sum()
    torch.cuda.synchronize()  # starting CUDA takes seconds, which are not part of the window
    found = timing("cuda")
    start = found.since
    with found.waiting():
        time.sleep(0.2)  # it has nothing to do
    torch.cuda._sleep(int(2e9))  # about a second
    with found.waiting():
        time.sleep(0.2)  # it is busy
    found.add(x.sum(), 0.1, loading=0.0)
    rows, _ = found.flush(1)
    assert 0.19 < rows[0]["data_wait"] * (time.perf_counter() - start) < 0.25


@pytest.mark.parametrize(
    ("workers", "cores", "expected"),
    [
        (2, 8, "there are 2, on 8 cores. Use --workers 5"),
        (0, 8, "there are 0, on 8 cores. Use --workers 5"),
        (2, 4, "on 4 cores. Decode less"),
        (6, 8, "on 8 cores. That should do: see what else"),
    ],
)
def test_bottleneck(workers: int, cores: int, expected: str) -> None:
    line = bottleneck(**HIGH, workers=workers, cheaper="Decode less", cores=cores)
    assert line.startswith("60% of the time is waiting for data: a batch takes a worker 2.00 s and the model 0.40 s, ")
    assert "which 5 workers would keep up with" in line and expected in line


def test_no_hint_below_the_threshold() -> None:
    assert bottleneck(**{**HIGH, "waited": HIGH_WAIT * 10 - 0.01}, workers=1, cheaper="", cores=2) == ""
    assert bottleneck(**{**HIGH, "waited": HIGH_WAIT * 10}, workers=1, cheaper="", cores=2) != ""


def test_a_run_gets_one_hint_and_none_while_it_starts() -> None:
    found, hints = timing("cpu", workers=1, cores=2), []
    for waits in (True, False, True, True):
        if waits:
            with found.waiting():
                time.sleep(0.05)
        else:
            time.sleep(0.05)
        found.add(torch.tensor(0.0), 0.1, loading=0.1)
        hints.append(bool(found.flush(1)[1]))
    assert hints == [False, False, True, False]
    assert timing("cpu").cores >= 1


def test_a_run_that_waits_says_what_to_change(
    videos: Path, tmp_path: Path, tiny_size: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    decode = ClipDataset.decode

    def slowly(*arguments: object) -> torch.Tensor:
        time.sleep(0.2)
        return decode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ClipDataset, "decode", slowly)
    pretrain(tiny.settings(videos, tmp_path / "run", max_steps=9))
    said = [line for line in capsys.readouterr().out.splitlines() if "waiting for data" in line]
    assert len(said) == 1 and "there are 0, on" in said[0]
    monkeypatch.setattr("videomae_fast.engine.timing._cores_of_a_process", lambda: 1)  # which no workers can mend
    pretrain(tiny.settings(videos, tmp_path / "one core", max_steps=9))
    assert "--crops-per-video" in capsys.readouterr().out
