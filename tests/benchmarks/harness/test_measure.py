"""Time and memory of a callable."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.harness import measure
from benchmarks.harness.run import ROOT

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_clock_counts_seconds() -> None:
    start = measure.clock()
    if torch.cuda.is_available():
        torch.cuda._sleep(10**8)
    else:
        time.sleep(0.05)
    assert 0.02 < measure.clock() - start < 2


def test_two_events_are_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with made-up events: recorded one after the other, waited for at the later one, milliseconds."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("synchronize")

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self and calls[-1] == "synchronize"
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    start, end = measure.CudaInstant(), measure.CudaInstant()
    assert end - start == 0.25
    assert calls == ["record", "record", "synchronize"]


@pytest.mark.gpu
@needs_gpu
def test_running_ahead_hides_launching() -> None:
    """Many small kernels run faster than the host launches them, if they were launched before."""
    device, x = torch.device("cuda"), torch.ones(8, device="cuda")

    def many() -> None:
        for _ in range(300):
            x.add_(1)

    many()
    launching = measure.host_seconds(many, device)
    samples = {}
    for ahead in (0.0, 2 * launching):
        torch.cuda.synchronize()
        measure.run_ahead(device, ahead)
        start = measure.clock()
        many()
        samples[ahead] = measure.clock() - start
    assert samples[2 * launching] < 0.8 * samples[0.0]


@pytest.mark.gpu
@needs_gpu
def test_sleep_is_long_enough() -> None:
    device = torch.device("cuda")
    torch.cuda.synchronize()
    start = measure.clock()
    measure.run_ahead(device, 0.01)
    assert measure.clock() - start >= 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="the cache of a CPU")
def test_chilling_reads_more_than_the_cache_holds() -> None:
    filler = measure._cache_filler(CPU)
    assert filler.nbytes == 2 * measure._cache_bytes(CPU) >= 2**21
    measure.chill(CPU)
    assert measure._cache_filler(CPU) is filler


def test_copy_bandwidth_counts_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(times) * 0.5)
    assert measure.copy_bandwidth(CPU, mib=8) == pytest.approx(2 * 8 * 2**20 / 0.5 / 1e9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the measure for CPUs")
def test_peak_counts_what_is_alive_at_once() -> None:
    """Two tensors of 4 MiB one after the other are 4 MiB; both at once are 8."""

    def one_after_the_other() -> None:
        for _ in range(2):
            held = torch.ones(2**20)
            del held

    def at_once() -> None:
        held = [torch.ones(2**20) for _ in range(2)]
        held.clear()

    assert measure.peak_mib(one_after_the_other, CPU) == pytest.approx(4, rel=0.01)
    assert measure.peak_mib(at_once, CPU) == pytest.approx(8, rel=0.01)


@pytest.mark.gpu
@needs_gpu
def test_peak_on_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.ones(2**20, device=device)  # is there before
    assert measure.peak_mib(lambda: held + 1, device) == pytest.approx(4, rel=0.01)


def test_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    found = measure.machine(tmp_path, CPU)
    assert found["device"] and found["driver"] == "none"
    assert found["versions"]["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["commit"] == "unknown"  # no repository here
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef")
    assert measure.machine(tmp_path, CPU)["commit"] == "0123456789ab"


def test_commit_tells_a_changed_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = measure.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert measure.commit(tmp_path) == f"{clean}-dirty"


@pytest.mark.slow
def test_the_profiler_prints_nothing() -> None:
    """Kineto's lines go to the process's own stderr."""
    code = (
        "import torch\nfrom benchmarks.harness.profiler import ProfilerActivity, profile\n"
        "with profile([ProfilerActivity.CPU]) as run: torch.zeros(1)\n"
        "print(any(event.key == 'aten::zeros' for event in run.key_averages()))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    process = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True, capture_output=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "True\n", "")
