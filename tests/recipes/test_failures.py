"""A run that cannot work stops with an error that says why; a run that can go on reports the problem."""

import multiprocessing.process
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.data import ClipDataset, UnreadableVideosError
from videomae_fast.engine import NonFiniteLossError, loop
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.interop import load_published
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.recipes.pretrain import pretrain


def _spoil_loss(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """The loss of `step`, counted from 1, becomes `value`, and its gradient too."""
    original, calls = VideoMAEForPretraining.forward, []

    def loss(self: VideoMAEForPretraining, *arguments: Any) -> Tensor:
        calls.append(step)
        return original(self, *arguments) * (value if len(calls) == step else 1.0)

    monkeypatch.setattr(VideoMAEForPretraining, "forward", loss)


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf")])
@pytest.mark.parametrize("save_every", [1, 3, 5])
def test_non_finite_loss_stops_the_run(
    value: float, shown: str, save_every: int, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil_loss(monkeypatch, 5, value)
    with pytest.raises(NonFiniteLossError, match=f"the loss of step 5 is {shown}, at learning rate 7.81e-04") as error:
        pretrain(tiny.settings(videos, tmp_path, save_every=save_every, log_every=7, keep_checkpoints=0))
    saved = list_checkpoints(tmp_path)
    expected = [step for step in range(1, 5) if step % save_every == 0]
    assert [tiny.saved_step(path) for path in saved] == expected
    assert f"its last checkpoint is {saved[-1] if saved else 'none'}" in str(error.value)
    for path in saved:
        assert all(tensor.isfinite().all() for tensor in load_published(path / "model.safetensors").values())


def test_the_run_continues_from_before_a_bad_step(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _spoil_loss(patch, 7, float("nan"))
        with pytest.raises(NonFiniteLossError, match="step 7 is nan"):
            pretrain(tiny.settings(videos, tmp_path / "run"))
    pretrain(tiny.settings(videos, tmp_path / "run", resume=True))
    pretrain(tiny.settings(videos, tmp_path / "whole"))
    assert tiny.losses(tmp_path / "run") == tiny.losses(tmp_path / "whole")


def test_learning_rate_that_ruins_the_weights(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"the loss of step \d is (nan|inf)"):
        pretrain(tiny.settings(videos, tmp_path, lr=1e20))


@pytest.mark.parametrize("save_every", [1, 2, 3])
def test_weights_ruined_under_a_finite_loss_are_not_saved(
    save_every: int, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of step 4 is NaN, its loss is not."""
    original, calls = VideoMAEForPretraining.forward, []

    def loss(self: VideoMAEForPretraining, *arguments: Any) -> Tensor:
        result = original(self, *arguments)
        calls.append(result)
        if len(calls) == 4:
            result.register_hook(lambda gradient: gradient * float("nan"))
        return result

    monkeypatch.setattr(VideoMAEForPretraining, "forward", loss)
    with pytest.raises(NonFiniteLossError, match=r"(after step 4|of step 5 is nan).*step-0000000"):
        pretrain(tiny.settings(videos, tmp_path, save_every=save_every))
    saved = list_checkpoints(tmp_path)
    assert tiny.saved_step(saved[-1]) == 3 // save_every * save_every
    for path in saved:
        assert all(tensor.isfinite().all() for tensor in load_published(path / "model.safetensors").values())


def test_bad_loss_is_one_line_on_the_command_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoil_loss(monkeypatch, 2, float("nan"))
    assert main(tiny.arguments(tiny.settings(videos, tmp_path))) == 2
    error = capsys.readouterr().err
    assert "videomae-fast pretrain: error: the loss of step 2 is nan" in error
    assert "Traceback" not in error


@pytest.fixture
def mixed(videos: Path, tmp_path: Path) -> Path:
    """A list of seven good videos and three that are missing, empty or garbage."""
    folder = tmp_path / "mixed"
    shutil.copytree(videos, folder)
    (folder / "video7.mp4").rename(folder / "empty.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "garbage.mp4").write_bytes(b"no video at all" * 100)
    names = [f"video{number}.mp4" for number in range(7)] + ["empty.mp4", "garbage.mp4", "missing.mp4"]
    (folder / "list.txt").write_text("".join(f"{name} 0 -1\n" for name in names))
    return folder / "list.txt"


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_videos_are_replaced_and_reported(
    workers: int, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: Counter[str] = Counter()
    original = ClipDataset.__getitem__

    def getitem(self: ClipDataset, key: tuple[int, int]) -> Any:
        asked[Path(self.annotations[key[0]].path).name] += 1
        return original(self, key)

    if workers == 0:
        monkeypatch.setattr(ClipDataset, "__getitem__", getitem)
    pretrain(tiny.settings(mixed, tmp_path / "run", workers=workers, max_bad_share=0.5))
    assert len(tiny.losses(tmp_path / "run")) == 3 * 5
    lines = (tmp_path / "run" / "bad_videos.tsv").read_text().splitlines()
    report = {Path(path).name: (reason, int(count)) for path, reason, count in (line.split("\t") for line in lines)}
    assert {name: reason for name, (reason, _) in report.items()} | {"garbage.mp4": "-"} == {
        "empty.mp4": "the file is empty (0 bytes)",
        "garbage.mp4": "-",
        "missing.mp4": "no such file",
    }
    assert "av cannot open it" in report["garbage.mp4"][0]
    assert all(count >= 3 for _, count in report.values())  # once per epoch, and as replacements of each other
    if workers == 0:
        assert all(count >= asked[name] for name, (_, count) in report.items())
    shown = "".join(capfd.readouterr())
    for name in report:
        assert shown.count(f"unreadable video replaced: {mixed.parent / name}: ") == 1
    total = sum(count for _, count in report.values())
    assert f"3 unreadable videos, replaced {total} times: {tmp_path / 'run' / 'bad_videos.tsv'}" in shown


def test_the_report_begins_with_the_run_and_continues_with_it(mixed: Path, tmp_path: Path) -> None:
    """The report drops an earlier run without a checkpoint, and keeps the earlier part of a continued run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bad_videos.tsv").write_text("old.mp4\tno such file\t7\n")
    pretrain(tiny.settings(mixed, tmp_path / "run", max_steps=7, max_bad_share=0.5))
    pretrain(tiny.settings(mixed, tmp_path / "run", resume=True, max_bad_share=0.5))
    pretrain(tiny.settings(mixed, tmp_path / "whole", max_bad_share=0.5))
    whole = (tmp_path / "whole" / "bad_videos.tsv").read_text()
    assert (tmp_path / "run" / "bad_videos.tsv").read_text() == whole != ""


def test_too_many_bad_videos_stop_the_run(mixed: Path, tmp_path: Path) -> None:
    """3 of 10 are more than the default share of a fifth."""
    with pytest.raises(UnreadableVideosError, match=r"bad_videos\.tsv"):
        pretrain(tiny.settings(mixed, tmp_path / "run"))
    assert (tmp_path / "run" / "bad_videos.tsv").exists()


def test_good_videos_leave_no_report(videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=1))
    assert not (tmp_path / "bad_videos.tsv").exists()


@pytest.fixture
def all_bad(tmp_path: Path) -> Path:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(3):
        (folder / f"bad{number}.mp4").write_bytes(b"x" * number)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_all_videos_bad(workers: int, all_bad: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableVideosError, match="3 videos in a row could not be read") as error:
        pretrain(tiny.settings(all_bad, tmp_path / "run", workers=workers))
    for number in range(3):
        assert f"{all_bad / f'bad{number}.mp4'}: " in str(error.value)
    assert list_checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("workers", [0, 1])
def test_all_videos_bad_on_the_command_line(
    workers: int, all_bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.arguments(tiny.settings(all_bad, tmp_path / "run", workers=workers))) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert f"{all_bad / 'bad0.mp4'}: the file is empty (0 bytes)" in error


_WRONG = {
    "unknown reader": ({"reader": "vlc"}, "reader must be one of av, decord, torchcodec, got 'vlc'"),
    "unknown model": ({"model": "tinier"}, "got 'tinier'"),
    "unknown encoder mask": ({"mask": "cube"}, "mask must be one of"),
    "nothing hidden": ({"mask": "none"}, "mask 'none' hides nothing"),
    "unknown decoder mask": ({"decoder_mask": "cube"}, "decoder_mask must be one of"),
    "unknown attention": ({"attention": "flash3"}, "attention must be one of"),
    "unknown context": ({"decoder_context": "all"}, "decoder_context must be one of"),
    "missing package": ({"attention": "xformers"}, "pip install 'videomae-fast[xformers]'"),
    "batch above the data": ({"batch_size": 9}, "8 videos does not fill one step of batch_size 9"),
    "size and patch": ({"image_size": 40}, "must be multiples of tubelet_size 2 and patch_size 16"),
    "hidden share": ({"mask_ratio": 1.0}, "ratio must be in [0, 1), got 1.0"),
    "decoded share": ({"decoder_mask_ratio": 0.0}, "got 0.0"),
    "frame_stride": ({"frame_stride": 0}, "frame_stride must be at least 1, got 0"),
    "negative seed": ({"seed": -1}, "seed must be in"),
    "missing list": ({"data": "/no/such/list.txt"}, "there is no list file and no folder at /no/such/list.txt"),
    "no data": ({"data": ""}, "data is empty: name an annotation file or a folder of videos"),
    "no output": ({"output": ""}, "output is empty: name a folder for the run"),
}


def _error(config: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """The error that the command line prints: one line after "error:", no traceback, exit status 2."""
    assert main(tiny.arguments(config)) == 2
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("pretrain:")]  # the progress bar
    assert len(lines) == 1, lines
    assert lines[0].startswith("videomae-fast pretrain: error: ")
    return lines[0]


@pytest.mark.parametrize("case", _WRONG)
def test_wrong_settings(case: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = _WRONG[case]
    config = tiny.settings(videos, tmp_path / "run")
    section_of = {field.name: getattr(config, section) for section, field in config.options()}
    for name, value in changes.items():
        object.__setattr__(section_of[name], name, value)  # unchecked: the command line does that
    assert message in _error(config, capsys)
    assert list_checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--precision", "fp16", "precision must be one of auto, bf16, fp32, got 'fp16'"),
        ("--epochs", "0", "epochs must be at least 1, got 0"),
        ("--batch-size", "0", "batch_size must be at least 1, got 0"),
        ("--crops-per-video", "0", "crops_per_video must be at least 1, got 0"),
        ("--log-every", "0", "log_every must be at least 1, got 0"),
        ("--workers", "-1", "workers must not be negative, got -1"),
        ("--keep-checkpoints", "-1", "keep_checkpoints must not be negative, got -1"),
        ("--lr", "-0.1", "lr must not be negative, got -0.1"),
        ("--lr", "nan", "lr must be finite, got nan"),
        ("--weight-decay", "-1", "weight_decay must not be negative, got -1.0"),
        ("--mask-ratio", "1.5", "mask_ratio must be in [0, 1), got 1.5"),
        ("--decoder-mask-ratio", "-0.5", "decoder_mask_ratio must be in [0, 1), got -0.5"),
        ("--drop-path", "1", "drop_path must be in [0, 1), got 1.0"),
        ("--beta2", "2", "beta2 must be in [0, 1), got 2.0"),
        ("--max-bad-share", "-1", "max_bad_share must not be negative, got -1.0"),
        ("--warmup-epochs", "3", "warmup_epochs 3 must be less than epochs 3"),
    ],
)
def test_settings_out_of_range(
    option: str, value: str, message: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tiny.arguments(tiny.settings(videos, tmp_path / "run")), option, value]) == 2
    assert capsys.readouterr().err == f"videomae-fast pretrain: error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("\n\n")
    assert "list.txt has no entries" in _error(tiny.settings(tmp_path / "list.txt", tmp_path / "run"), capsys)


def test_folder_without_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert f"no videos under {tmp_path / 'data'}" in _error(tiny.settings(tmp_path / "data", tmp_path / "run"), capsys)


def test_output_that_is_a_file(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("here already")
    assert f"output folder {tmp_path / 'run'} cannot be written" in _error(
        tiny.settings(videos, tmp_path / "run"), capsys
    )
    assert (tmp_path / "run").read_text() == "here already"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    assert "cannot be written" in _error(tiny.settings(videos, tmp_path / "run"), capsys)


def test_existing_run(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(tiny.settings(videos, tmp_path, max_steps=1))
    capsys.readouterr()
    assert "continue with --resume" in _error(tiny.settings(videos, tmp_path), capsys)
    assert "seed: was 3, now 4" in _error(tiny.settings(videos, tmp_path, resume=True, seed=4), capsys)


def test_value_of_another_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--batch-size", "many"])
    assert stop.value.code == 2
    assert "--batch-size: invalid int value: 'many'" in capsys.readouterr().err


def test_sigterm_before_the_first_step(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends well, with a checkpoint of step 0 to continue from."""
    original = loop.StopSignals.__enter__

    def enter(signals: loop.StopSignals) -> loop.StopSignals:
        original(signals)
        os.kill(os.getpid(), signal.SIGTERM)
        return signals

    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignals, "__enter__", enter)
        assert main(tiny.arguments(tiny.settings(videos, tmp_path / "run"))) == 0
    assert "stopped by SIGTERM after step 0" in capsys.readouterr().out
    pretrain(tiny.settings(videos, tmp_path / "run", resume=True))
    pretrain(tiny.settings(videos, tmp_path / "whole"))
    assert tiny.losses(tmp_path / "run") == tiny.losses(tmp_path / "whole")


def test_an_error_ends_the_workers_quietly(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers end by themselves: if one is killed, torch raises in the main process."""
    alive = []
    original = multiprocessing.process.BaseProcess.kill

    def kill(worker: multiprocessing.process.BaseProcess) -> None:
        alive.append(worker.is_alive())
        original(worker)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", kill)
    _spoil_loss(monkeypatch, 1, float("nan"))
    before = set(multiprocessing.active_children())
    with pytest.raises(NonFiniteLossError, match="step 1"):
        pretrain(tiny.settings(videos, tmp_path, workers=1, log_every=1))
    assert set(multiprocessing.active_children()) <= before
    assert not any(alive)
