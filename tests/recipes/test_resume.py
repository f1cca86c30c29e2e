"""An interrupted run computes the same as an uninterrupted run, bit for bit."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import read_log
from videomae_fast.interop import load_published
from videomae_fast.recipes.pretrain import PretrainConfig, pretrain


@pytest.fixture(scope="module")
def uninterrupted(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 12 steps in this process, by the command line's entry."""
    return tmp_path_factory.mktemp("resume") / "run"


@pytest.fixture(autouse=True)
def finished(uninterrupted: Path, videos: Path, tiny_size: None) -> None:
    if not uninterrupted.exists():
        pretrain(tiny.settings(videos, uninterrupted))


def _same(left: Path, right: Path) -> None:
    """The two runs have equal losses, learning rates, last weights, and optimizer state."""
    rows = [[(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_log(run)] for run in (left, right)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12
    ends = [list_checkpoints(run)[-1] for run in (left, right)]
    weights = [load_published(end / "model.safetensors") for end in ends]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [torch.load(end / "optimizer.bin", weights_only=True)["state"] for end in ends]
    for number, state in states[0].items():
        assert all(torch.equal(value, states[1][number][name]) for name, value in state.items())


@pytest.mark.parametrize("stop", [1, 6, 8])  # 4 steps per epoch: in the first, in the middle of, and after an epoch
def test_resumed_run_is_exact(stop: int, uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    part = pretrain(tiny.settings(videos, tmp_path, max_steps=stop))
    assert part.step == stop == tiny.saved_step(part.checkpoint) == len(tiny.losses(tmp_path))
    assert pretrain(tiny.settings(videos, tmp_path, resume=True)).step == 12
    _same(uninterrupted, tmp_path)


def test_resumed_many_times_with_other_free_settings(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    for stop, changes in (
        (2, {}),
        (3, {"keep_checkpoints": 1}),
        (7, {"log_every": 1, "save_every": 3}),
        (0, {"workers": 1}),
    ):
        pretrain(tiny.settings(videos, tmp_path, max_steps=stop, resume=True, **changes))
    _same(uninterrupted, tmp_path)


def test_workers_change_nothing(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, workers=1, max_steps=6))
    pretrain(tiny.settings(videos, tmp_path, workers=1, resume=True))
    _same(uninterrupted, tmp_path)


def test_the_rows_after_the_checkpoint_are_written_again(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    """As after a crash: the log has three steps after the last checkpoint."""
    pretrain(tiny.settings(videos, tmp_path, keep_checkpoints=0, max_steps=7))
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000007")
    assert len(tiny.losses(tmp_path)) == 7
    text = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(text.replace("\n7,", "\n5,9,99.0,1,1,0,1\n7,"))
    pretrain(tiny.settings(videos, tmp_path, resume=True))
    _same(uninterrupted, tmp_path)


def test_finished_run_resumes_to_nothing(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    result = pretrain(tiny.settings(videos, tmp_path / "run", resume=True))
    assert (result.step, result.checkpoint.name) == (12, "step-00000012")
    _same(uninterrupted, tmp_path / "run")


def test_half_written_checkpoint_is_ignored(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=6))
    unfinished = tmp_path / "checkpoints" / ".unfinished-00000008"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000006"]
    pretrain(tiny.settings(videos, tmp_path, resume=True))
    assert not unfinished.exists()  # step 8 was saved under this name, and renamed
    _same(uninterrupted, tmp_path)


def test_save_that_fails_leaves_no_checkpoint(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: PretrainConfig, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PretrainConfig, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pretrain(tiny.settings(videos, tmp_path))
    assert list_checkpoints(tmp_path) == []
    monkeypatch.undo()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_without_a_checkpoint_it_starts_from_the_beginning(
    uninterrupted: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(tiny.settings(videos, tmp_path / "new", resume=True))
    assert f"no checkpoint in {tmp_path / 'new'} yet: starting from the beginning" in capsys.readouterr().out
    _same(uninterrupted, tmp_path / "new")


def test_it_says_where_it_continues(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = pretrain(tiny.settings(videos, tmp_path, max_steps=1)).checkpoint
    pretrain(tiny.settings(videos, tmp_path, max_steps=2, resume=True))
    assert f"continuing after step 1 from {checkpoint}" in capsys.readouterr().out


def test_changed_settings_are_refused(videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=1))
    log = (tmp_path / "log.csv").read_bytes()
    with pytest.raises(ValueError, match=r"lr: was 0\.1, now 0\.2") as error:
        pretrain(tiny.settings(videos, tmp_path, resume=True, lr=0.2, mask_ratio=0.5, seed=4, workers=1))
    assert "mask_ratio: was 0.9, now 0.5" in str(error.value)
    assert "seed: was 3, now 4" in str(error.value)
    assert "workers" not in str(error.value)
    assert (tmp_path / "log.csv").read_bytes() == log


def test_output_with_checkpoints_is_not_overwritten(videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=1))
    with pytest.raises(ValueError, match="holds checkpoints: continue with --resume or choose another folder"):
        pretrain(tiny.settings(videos, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_and_the_run_continues(workers: int, videos: Path, tmp_path: Path) -> None:
    """SIGTERM to the process group, as a scheduler sends it, while the command line trains."""
    changes = {"epochs": 400, "workers": workers, "save_every": 1000, "log_every": 1}
    process = tiny.start(["-m", "tests.recipes.tiny", *tiny.arguments(tiny.settings(videos, tmp_path, **changes))])
    try:
        while process.poll() is None and len(read_log(tmp_path)) < 5:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    checkpoint = list_checkpoints(tmp_path)[-1]
    step = tiny.saved_step(checkpoint)
    assert 5 <= step < 1600
    assert len(list_checkpoints(tmp_path)) == 1
    assert f"stopped by SIGTERM after step {step}; continue with --resume" in out
    assert "Traceback" not in err
    before = tiny.losses(tmp_path)
    assert len(before) == step

    pretrain(tiny.settings(videos, tmp_path, resume=True, max_steps=step + 3, **changes))
    pretrain(tiny.settings(videos, tmp_path / "whole", max_steps=step + 3, **changes))
    resumed, whole = tiny.losses(tmp_path), tiny.losses(tmp_path / "whole")
    assert resumed[:step] == before
    assert resumed == whole
    ends = [load_published(list_checkpoints(run)[-1] / "model.safetensors") for run in (tmp_path, tmp_path / "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_sigterm_in_this_process(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    """The signal arrives in the middle of the decoding of a batch; the handler of before is back afterwards."""
    from videomae_fast.data import ClipDataset

    original, calls = ClipDataset.__getitem__, []

    def getitem(self: ClipDataset, key: tuple[int, int]) -> object:
        calls.append(key)
        if len(calls) == 10:  # the second video of step 5
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, key)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipDataset, "__getitem__", getitem)
        assert pretrain(tiny.settings(videos, tmp_path)).step == 5
    assert signal.getsignal(signal.SIGTERM) is before
    pretrain(tiny.settings(videos, tmp_path, resume=True))
    _same(uninterrupted, tmp_path)


def test_killed_before_its_first_log_line_keeps_the_log(
    uninterrupted: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier rows of the log are on disk as soon as a continued run begins, because a kill can come at any time."""
    from videomae_fast.engine import loop

    class Killed(BaseException):
        pass

    def killed(run: object, batch: object) -> None:
        seen.append(tiny.losses(tmp_path))  # as another process sees the file now
        raise Killed

    seen: list[list[float]] = []
    pretrain(tiny.settings(videos, tmp_path, max_steps=5))
    monkeypatch.setattr(loop._Run, "_train_step", killed)
    with pytest.raises(Killed):
        pretrain(tiny.settings(videos, tmp_path, resume=True))
    assert seen == [tiny.losses(uninterrupted)[:5]]


def test_half_written_row_of_the_log_is_dropped(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=6))
    with (tmp_path / "log.csv").open("a") as log:
        log.write("1")  # of "11,2,1.01..."
    pretrain(tiny.settings(videos, tmp_path, resume=True))
    _same(uninterrupted, tmp_path)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([0, 1, 2, 3, 4, 5], "'videos': 8.*'videos': 6"),
        ([0, 1, 2, 3, 4, 5, 7, 6], "fingerprint"),
        ([0, 1, 2, 3, 4, 5, 6, 6], "fingerprint"),
    ],
)
def test_other_data_are_refused(kept: list[int], message: str, videos: Path, tmp_path: Path) -> None:
    """The number of videos decides the length of an epoch, and their order decides the order of training."""
    listed, names = tmp_path / "list.txt", [f"{videos}/video{number}.mp4\n" for number in range(8)]
    listed.write_text("".join(names))
    pretrain(tiny.settings(listed, tmp_path, max_steps=1))
    listed.write_text("".join(names[number] for number in kept))
    with pytest.raises(ValueError, match=message):
        pretrain(tiny.settings(listed, tmp_path, resume=True))


def test_data_may_move(uninterrupted: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=5))
    shutil.copytree(videos, tmp_path / "moved")
    pretrain(tiny.settings(tmp_path / "moved", tmp_path, resume=True))
    _same(uninterrupted, tmp_path)
