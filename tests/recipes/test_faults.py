"""Faults of the surroundings: full disks, killed processes, signals, a second run in the same folder."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forks import run_forks
from tests.recipes import tiny
from videomae_fast._lock import LOCK, lock_output
from videomae_fast.cli import main
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import read_log
from videomae_fast.interop import load_published
from videomae_fast.recipes.pretrain import pretrain

LONG = {"epochs": 400, "log_every": 1, "track": "none"}  # a run that does not end by itself within a test


def _error(videos: Path, output: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """The error that the command line prints: one line, no traceback, exit status 2."""
    assert main(tiny.arguments(tiny.settings(videos, output, **changes))) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("pretrain:")]  # the progress bar
    assert len(lines) == 1 and lines[0].startswith("videomae-fast pretrain: error: "), lines
    return lines[0]


def _continues(videos: Path, output: Path, whole: Path) -> None:
    """`--resume` computes what a run without faults computes."""
    pretrain(tiny.settings(videos, output, track="none", resume=True))
    pretrain(tiny.settings(videos, whole, track="none"))
    assert tiny.losses(output) == tiny.losses(whole)
    ends = [load_published(list_checkpoints(run)[-1] / "model.safetensors") for run in (output, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not list((output / "checkpoints").glob(".unfinished*"))


# ---- the disk


def _failing_save(kind: str, number: int) -> Callable[..., None]:
    """A writer whose disk fails after some bytes, with the error of the library."""
    from safetensors import SafetensorError

    def fail(state: Any, path: Any, *others: Any, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        text = os.strerror(number)
        raise {
            "os": OSError(number, text),
            "safetensors": SafetensorError(f"Error while serializing: I/O error: {text} (os error {number})"),
        }[kind]

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=os.strerror)
@pytest.mark.parametrize(
    ("kind", "target"), [("os", "torch.save"), ("safetensors", "accelerate.utils.other.safe_save_file")]
)
def test_a_save_that_fails(
    kind: str,
    target: str,
    number: int,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    pretrain(tiny.settings(videos, output, max_steps=3, track="none"))
    (checkpoint,) = list_checkpoints(output)
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(target, _failing_save(kind, number))
        error = _error(videos, output, capsys, track="none", resume=True)
    assert f"{os.strerror(number)}: '{checkpoint.with_name('step-00000004')}'" in error
    assert error.endswith(f"The run stopped after step 4; its last checkpoint is {checkpoint}")
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert os.listdir(output / "checkpoints") == [checkpoint.name]  # the failed one takes no space
    _continues(videos, output, tmp_path / "whole")


@pytest.mark.parametrize("name", ["log.csv", "eval.csv"])
def test_a_log_that_fails(
    name: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videomae_fast.engine import log

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, text: str) -> None:
            if Path(self.file.name).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(text)

    original = log._Csv.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self.writer = log.csv.DictWriter(Full(self.file), self.writer.fieldnames)

    output = tmp_path / "run"
    changes: dict[str, Any] = {"eval_data": str(videos), "eval_every": 2, "save_every": 1, "log_every": 1}
    pretrain(tiny.settings(videos, output, max_steps=1, **changes))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(log._Csv, "__init__", init)
        error = _error(videos, output, capsys, resume=True, **changes)
    assert f"No space left on device: '{output / name}'. The run stopped after step 2; its last checkpoint is " in error
    _continues(videos, output, tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount, where a container allows it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.32, 0.35, 0.6, 0.9, 0.99])
def test_a_disk_that_fills_up(
    share: float, small_disk: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the disk is full, in the log, the weights or the optimizer, the last checkpoint stands."""
    output = small_disk / "run"
    changes: dict[str, Any] = {"save_every": 1, "log_every": 1, "keep_checkpoints": 0}
    pretrain(tiny.settings(videos, output, max_steps=1, track="none", keep_checkpoints=0))
    needed = sum(path.stat().st_size for path in list_checkpoints(output)[0].iterdir())
    state, filler = os.statvfs(small_disk), small_disk / "filler"
    filler.write_bytes(bytes(state.f_bavail * state.f_frsize - int(share * needed)))
    capsys.readouterr()
    error = _error(videos, output, capsys, resume=True, track="none", **changes)
    assert "No space left on device: '" in error
    last = list_checkpoints(output)[-1]
    assert f"its last checkpoint is {last}" in error or "The run stopped" not in error  # as it could not begin
    filler.unlink()
    shutil.copytree(output, tmp_path / "run")
    _continues(videos, tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_full_disk_under_pictures_and_trackers(
    small_disk: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = small_disk / "run"
    pretrain(tiny.settings(videos, output, max_steps=1))
    state = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(state.f_bavail * state.f_frsize))
    capsys.readouterr()
    assert "No space left on device: '" in _error(videos, output, capsys, resume=True, max_steps=1)
    assert main(["gallery", *tiny.arguments(tiny.settings(videos, small_disk / "g.png"))[1:]]) == 2
    assert f"No space left on device: '{small_disk / 'g.png'}'" in capsys.readouterr().err
    assert not list(small_disk.glob("*g.png*"))


@pytest.mark.slow
def test_a_read_only_output(small_disk: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(tiny.settings(videos, small_disk / "run", max_steps=1, track="none"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    error = _error(videos, small_disk / "run", capsys, resume=True)
    assert f"output folder {small_disk / 'run'} cannot be written: [Errno 30] Read-only file system" in error


# ---- two runs in one folder


def _start(videos: Path, output: Path, **changes: Any) -> subprocess.Popen[str]:
    process = tiny.start(["-m", "tests.recipes.tiny", *tiny.arguments(tiny.settings(videos, output, **LONG | changes))])
    end = time.monotonic() + 60
    while process.poll() is None and len(read_log(output)) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    """The holder is another process: a process does not keep itself out."""
    code = (
        "from pathlib import Path; from videomae_fast._lock import lock_output\n"
        f"with lock_output(Path({str(tmp_path)!r})): pass"
    )
    pytest.importorskip("fcntl")
    with lock_output(tmp_path):
        error = _end(tiny.start(["-c", code]))[1]
        holder = (tmp_path / LOCK).read_text().strip()
    assert holder.startswith(f"process {os.getpid()} on ")
    assert f"output folder {tmp_path} is in use by another run, {holder}: wait for it, or choose another" in error
    assert _end(tiny.start(["-c", code])) == ("", "")


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    """A folder from a stranger may hold one."""
    if not hasattr(os, "O_NOFOLLOW"):
        pytest.skip("this system opens links only")
    (tmp_path / "victim").write_text("whole")
    for target in ("victim", "new"):
        (tmp_path / LOCK).unlink(missing_ok=True)
        (tmp_path / LOCK).symlink_to(tmp_path / target)
        with pytest.raises(OSError, match=LOCK), lock_output(tmp_path):
            pass
    assert (tmp_path / "victim").read_text() == "whole" and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_run_and_a_killed_one(
    workers: int, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run changes nothing; after kill -9 the folder is free at once, although workers may still end."""
    process = _start(videos, tmp_path / "run", workers=workers, save_every=2)
    try:
        for resume in (True, False) if list_checkpoints(tmp_path / "run") else (True,):
            error = _error(videos, tmp_path / "run", capsys, resume=resume, **LONG | {"save_every": 2})
            assert f"is in use by another run, process {process.pid} on " in error or not resume
        assert process.poll() is None
        process.kill()
        process.wait()
        result = pretrain(tiny.settings(videos, tmp_path / "run", resume=True, max_steps=9, **LONG))
        assert result.step >= 9 and len(tiny.losses(tmp_path / "run")) == result.step
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()


# ---- signals and killed processes


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_one_signal_saves(number: int, videos: Path, tmp_path: Path) -> None:
    """The signal comes to the whole group, and again within the grace time, as `timeout` and torchrun send it."""
    process = _start(videos, tmp_path / "run", workers=1)
    os.killpg(process.pid, number)
    time.sleep(0.01)
    os.killpg(process.pid, number)
    out, err = _end(process)
    assert process.returncode == 0, err
    step = tiny.saved_step(list_checkpoints(tmp_path / "run")[-1])
    assert f"stopped by {signal.Signals(number).name} after step {step}; continue with --resume" in out
    assert f"{signal.Signals(number).name}: saving after this step" in err and "Traceback" not in err
    assert len(tiny.losses(tmp_path / "run")) == step


_SLOW_SAVE = """
import sys, time
from tests.recipes import tiny
from accelerate import Accelerator
from videomae_fast.cli import main
original = Accelerator.save_state
def save_state(self, folder, **options):
    original(self, folder, **options)
    print("saving", flush=True)
    time.sleep(60)
Accelerator.save_state = save_state
tiny.CONFIGS["tiny"] = tiny.TINY
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_stops_at_once(second: int, videos: Path, tmp_path: Path) -> None:
    """In the middle of a save that takes long: the last checkpoint stands."""
    output = tmp_path / "run"
    pretrain(tiny.settings(videos, output, max_steps=3, track="none"))
    arguments = tiny.arguments(tiny.settings(videos, output, track="none", resume=True))
    process = tiny.start(["-c", _SLOW_SAVE, *arguments])
    try:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and "saving" not in line:
            pass
        process.send_signal(signal.SIGINT)
        time.sleep(2.3)
        assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(second)
        process.wait(timeout=10)
    finally:
        _, err = _end(process)
    assert process.returncode == -second and time.monotonic() - sent < 10
    assert "Traceback" not in err
    assert [path.name for path in list_checkpoints(output)] == ["step-00000003"]
    _continues(videos, output, tmp_path / "whole")


_KILLED_SAVE = """
import os, signal, sys
from tests.recipes import tiny
from videomae_fast.cli import main
place, calls = int(sys.argv[1]), 0
def trace(event, arguments):  # each audit event that touches a file of the unfinished checkpoint is a place to die
    global calls
    if event in ("open", "os.rename", "os.mkdir", "os.chmod", "os.rmdir", "os.remove", "shutil.rmtree"):
        if any("unfinished" in str(each) or "checkpoints/step-00000003" in str(each) for each in arguments):
            calls += 1
            if calls == place:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(trace)
tiny.CONFIGS["tiny"] = tiny.TINY
main(sys.argv[2:])
print("places", calls)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_killed_inside_a_save(part: int, videos: Path, tmp_path: Path) -> None:
    """kill -9 at every second file operation of the save of step 4, which also removes the checkpoint of step 3."""
    pretrain(tiny.settings(videos, tmp_path / "begun", max_steps=3, track="none"))
    pretrain(tiny.settings(videos, tmp_path / "whole", max_steps=5, track="none"))
    place, died = 1 + 2 * part, True
    while died:
        output = tmp_path / f"run{place}"
        shutil.copytree(tmp_path / "begun", output)
        config = tiny.settings(videos, output, max_steps=4, track="none", keep_checkpoints=1, resume=True)
        (process,) = run_forks([["-c", _KILLED_SAVE, str(place), *tiny.arguments(config)]], [{}])
        died = process.returncode == -signal.SIGKILL
        assert died or "places" in process.stdout, process.stderr
        assert list_checkpoints(output)
        pretrain(tiny.settings(videos, output, max_steps=5, track="none", keep_checkpoints=1, resume=True))
        assert tiny.losses(output) == tiny.losses(tmp_path / "whole")
        assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000005"]
        place += 8
    assert place > 12


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("moment", ["in a step", "while it waits"])
def test_a_killed_worker(
    moment: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The finished steps are saved: the death is not noticed in the middle of an optimizer step."""
    import multiprocessing

    from videomae_fast.data import loader
    from videomae_fast.models import VideoMAEForPretraining

    def kill() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid or 0, os.WEXITED | os.WNOWAIT)
        for _ in range(1000):  # the signal handler runs between two of these
            pass

    name, owner = ("forward", VideoMAEForPretraining) if moment == "in a step" else ("next", loader._WorkerWatch)
    original, calls = getattr(owner, name), []

    def killing(self: Any, *arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == 6:
            kill()
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        error = _error(videos, tmp_path / "run", capsys, workers=1, track="none", log_every=100)
    step = 6 if moment == "in a step" else 5
    assert "a data-loading process died: DataLoader worker (pid" in error
    assert error.endswith(f"after step {step}; its last checkpoint is {list_checkpoints(tmp_path / 'run')[-1]}")
    assert tiny.saved_step(list_checkpoints(tmp_path / "run")[-1]) == step == len(tiny.losses(tmp_path / "run"))
    assert not multiprocessing.active_children()
    _continues(videos, tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_worker_that_hangs(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videomae_fast.data import ClipDataset, make_loader
    from videomae_fast.recipes import videos as recipe_videos

    original = ClipDataset.__getitem__

    def getitem(self: ClipDataset, key: tuple[int, int]) -> Any:
        if key[1] == 10:  # a video of step 6
            time.sleep(30)
        return original(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", getitem)
    monkeypatch.setattr(
        recipe_videos, "make_loader", lambda *given, **options: make_loader(*given, timeout=5, **options)
    )
    error = _error(videos, tmp_path / "run", capsys, workers=1, track="none")
    assert "a data-loading process made no batch within 5 s" in error
    assert "The run stopped after step 5; its last checkpoint is " in error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs torchrun with POSIX signals")
def test_a_rank_that_fails_ends_the_others(videos: Path, tmp_path: Path) -> None:
    """One of two ranks meets a full disk: no rank waits for ever, and the checkpoint before stands."""
    code = (
        "import os, sys, torch\nfrom tests.recipes import tiny\nfrom videomae_fast.cli import main\n"
        "tiny.CONFIGS['tiny'] = tiny.TINY\noriginal = torch.save\n"
        "def save(state, path, *others, **options):\n"
        "    if 'random_states_1' in str(path) and '00000004' in str(path):\n"
        "        raise OSError(28, 'No space left on device')\n"
        "    original(state, path, *others, **options)\n"
        "torch.save = save\nsys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "rank.py").write_text(code)
    config = tiny.settings(videos, tmp_path / "run", epochs=4, batch_size=1, save_every=2, track="none")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "rank.py")]
    process = tiny.start([*launcher, *tiny.arguments(config)], variables={"ACCELERATE_USE_CPU": "true"})
    try:
        _, err = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    last = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert (
        f"videomae-fast pretrain: error: [Errno 28] No space left on device: '{last.with_name('step-00000004')}'" in err
    )
    assert list_checkpoints(tmp_path / "run") == [last]
