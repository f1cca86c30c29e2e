"""What the commands print: one printable line for each line that is meant, in any encoding of the console."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.tiny import ROOT
from videomae_fast.cli import main
from videomae_fast.engine.log import say
from videomae_fast.recipes import pretrain as pretraining

EVIL = "\x1b[2J\u202e"


@pytest.mark.parametrize("command", [["check-data"], ["transcode", "new"], ["pretrain", "--output", "run", "--data"]])
def test_a_name_in_an_error_is_printable(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *more = command
    arguments = [name, f"{EVIL}\n"] if name != "pretrain" else [name, *more, f"{EVIL}\n"]
    assert main(arguments + (more if name == "transcode" else [])) == 2
    error = capsys.readouterr().err
    assert error.endswith("\n") and error[:-1].isprintable() and r"\x1b[2J\u202e\n" in error


def test_any_error_is_printable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last defence, for messages of other packages."""

    def fails(config: object) -> None:
        raise OSError(f"{EVIL} is broken\n  in its second line\t")

    monkeypatch.setattr(pretraining, "pretrain", fails)
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == (
        "videomae-fast pretrain: error: \\x1b[2J\\u202e is broken\n  in its second line\\t\n"
    )


def test_an_argument_in_an_error_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["pretrain", f"{EVIL}\n.mp4"], ["memory", "--model", EVIL], [EVIL]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error[:-1].isprintable() and r"\x1b[2J" in error


def test_lines_above_the_progress_bar_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{EVIL}\nsecond line")
    assert capsys.readouterr().out == "\\x1b[2J\\u202e\nsecond line\n"


@pytest.mark.parametrize("config", ["deep.json", "deep.toml", "pipe.json", "large.json", "twice.json"])
def test_configurations_from_strangers(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / config
    if config == "pipe.json":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no named pipes")
        os.mkfifo(path)
    else:
        path.write_text(
            {
                "deep.json": "[" * 100_000,
                "deep.toml": "a = " + "[" * 100_000,
                "large.json": '{"optimizer": {"lr": 1' + "0" * 400 + "}}",
                "twice.json": '{"optimizer": {"lr": 1, "lr": 2}}',
            }[config]
        )
    assert main(["pretrain", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert config in error and len(error) < 1000 and error[:-1].isprintable()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_console_without_unicode(variables: dict[str, str], tmp_path: Path) -> None:
    """Where the console has no character for a name, the name is printed with an escape, and the command goes on."""
    (tmp_path / "größe \U0001f3ac.mp4").touch()
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "PYTHONCOERCECLOCALE": "0"}
    command = ["-m", "videomae_fast", "check-data", ".", "--workers", "0", "--report", "report.tsv"]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env={**os.environ, **paths, **variables}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"1 videos, 1 bad" in done.stdout and done.stdout.isascii() and b"mp4: the file is empty" in done.stdout
    assert len((tmp_path / "report.tsv").read_bytes().splitlines()) == 2
