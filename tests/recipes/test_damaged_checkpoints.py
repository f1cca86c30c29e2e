"""A damaged checkpoint is named, with the file, before anything is loaded; an undamaged one continues exactly."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.manifest import make_manifest
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.finetune import FinetuneConfig, finetune
from videomae_fast.recipes.pretrain import pretrain

FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "config.json", "state.json")


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with two checkpoints, of steps 1 and 2; see `saved`."""
    return tmp_path_factory.mktemp("damaged") / "run"


@pytest.fixture(autouse=True)
def saved(run: Path, videos: Path, tiny_size: None) -> None:
    if not run.exists():
        pretrain(tiny.settings(videos, run, max_steps=2, save_every=1, track="none"))


def _resume(videos: Path, output: Path, max_steps: int = 2) -> None:
    pretrain(tiny.settings(videos, output, max_steps=max_steps, save_every=1, track="none", resume=True))


def _refused(videos: Path, output: Path, file: str) -> None:
    """The error names the checkpoint, the file and the checkpoint before; the folder stays as it was."""
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ValueError, match="is damaged: ") as error:
        _resume(videos, output)
    message, (first, last) = str(error.value), list_checkpoints(output)
    assert f"checkpoint {last} is damaged: " in message and file in message and "\n" not in message
    assert message.endswith(f"Delete or move that folder, and --resume continues from {first}")
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte less": lambda path: os.truncate(path, path.stat().st_size - 2),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": os.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of the checkpoint before": lambda path: shutil.copy(path.parents[1] / "step-00000001" / path.name, path),
    "another of the folder": lambda path: shutil.copy(path.with_name(FILES[FILES.index(path.name) - 1]), path),
}


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(file: str, damage: str, run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = list_checkpoints(tmp_path / "run")[-1] / file
    if (
        damage == "of the checkpoint before"
        and path.read_bytes() == (run / "checkpoints/step-00000001" / file).read_bytes()
    ):
        pytest.skip("it is the same file")
    _DAMAGES[damage](path)
    _refused(videos, tmp_path / "run", file)


@pytest.fixture(scope="module")
def tuned(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fine-tuning, whose checkpoints have more files, and whose `build` reads some."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        finetune(_tuning(labelled, output, max_steps=2))
    return output


def _tuning(data: Path, output: Path, **changes: Any) -> FinetuneConfig:
    return tiny.finetuning(data, output, save_every=1, track="none", ema_decay=0.5, **changes)


@pytest.mark.parametrize("damage", ["half", "emptied", "deleted"])
@pytest.mark.parametrize("file", [*FILES, "classes.json", "model_ema.safetensors"])
def test_a_damaged_file_of_a_classifier(file: str, damage: str, tuned: Path, labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / "run")
    first, last = list_checkpoints(tmp_path / "run")
    _DAMAGES[damage](last / file)
    with pytest.raises(ValueError, match=rf"checkpoint .*{last.name} is damaged: .*{file}") as error:
        finetune(_tuning(labelled, tmp_path / "run", max_steps=3, resume=True))
    assert str(error.value).endswith(f"Delete or move that folder, and --resume continues from {first}")


def _flip(folder: Path, file: str, draw: random.Random) -> None:
    content = bytearray((folder / file).read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (folder / file).write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 40), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_flipped_bit(file: str, seeds: range, run: Path, videos: Path, tmp_path: Path) -> None:
    """It is found, or, as in a space of state.json, changes nothing."""
    shutil.copytree(run, tmp_path / "run")
    last, whole = list_checkpoints(tmp_path / "run")[-1], (list_checkpoints(run)[-1] / file).read_bytes()
    for seed in seeds:
        (last / file).write_bytes(whole)
        _flip(last, file, random.Random(seed))
        try:
            _resume(videos, tmp_path / "run")
        except ValueError as error:
            assert file in str(error)
        else:
            assert file == "state.json"
    (last / file).write_bytes(whole)
    _resume(videos, tmp_path / "run", max_steps=3)
    assert len(tiny.losses(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "it must hold an object, not list"),
        ("{}", "step must be 2, got None"),
        ('{"step": -1}', "step must be 2, got -1"),
        ('{"step": 2.0}', "step must be 2, got 2.0"),
        ('{"step": true}', "step must be 2, got True"),
        ('{"step": "2"}', "step must be 2, got 2"),
        ('{"step": 1e400}', "step must be 2, got inf"),
        (f'{{"step": {10**400}}}', "step must be 2, got 1000000"),
        (f'{{"step": {"9" * 5000}}}', "limit"),
        ('{"step": 2}', "it does not list the files"),
        ('{"step": 2, "files": []}', "it does not list the files"),
        ('{"step": 2, "files": {"model.safetensors": 5}}', "no size and checksum for 'model.safetensors'"),
        ('{"step": 2, "files": {"../../../../dev/zero": [0, 0]}}', "it is missing"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_a_strange_state(text: str, message: str, run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = list_checkpoints(tmp_path / "run")[-1] / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    _refused(videos, tmp_path / "run", message)


def test_the_run_continues_from_the_checkpoint_before(run: Path, videos: Path, tmp_path: Path) -> None:
    """As the message says: the damaged folder is moved, and the run ends as if nothing had happened."""
    shutil.copytree(run, tmp_path / "run")
    last = list_checkpoints(tmp_path / "run")[-1]
    os.truncate(last / "optimizer.bin", 100)
    _refused(videos, tmp_path / "run", "optimizer.bin")
    last.rename(tmp_path / "moved")
    _resume(videos, tmp_path / "run", max_steps=4)
    pretrain(tiny.settings(videos, tmp_path / "whole", max_steps=4, track="none"))
    assert tiny.losses(tmp_path / "run") == tiny.losses(tmp_path / "whole")


def test_it_is_one_line_on_the_command_line(
    run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only checkpoint is damaged: the run can begin anew."""
    shutil.copytree(run, tmp_path / "run")
    first, last = list_checkpoints(tmp_path / "run")
    shutil.rmtree(first)
    os.truncate(last / "model.safetensors", 100)
    assert main(tiny.arguments(tiny.settings(videos, tmp_path / "run", track="none", resume=True))) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"videomae-fast pretrain: error: checkpoint {last} is damaged: model.safetensors: it has 100"
    )
    assert "--resume starts from the beginning" in error and error.count("\n") == 1


def _sign(folder: Path) -> None:
    """What a stranger can do: a manifest that fits the files."""
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").unlink()
    state["files"] = make_manifest(folder, 0o644)
    (folder / "state.json").write_text(json.dumps(state))


class _Code:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("file", ["optimizer.bin", "random_states_0.pkl", "pytorch_model.bin"])
def test_code_in_a_checkpoint_is_not_run(file: str, run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    last = list_checkpoints(tmp_path / "run")[-1]
    torch.save({"state": _Code(tmp_path / "made"), "random_state": _Code(tmp_path / "made")}, last / file)
    if file == "pytorch_model.bin":
        (last / "model.safetensors").unlink()
    _sign(last)
    try:
        _resume(videos, tmp_path / "run")
    except ValueError as error:
        assert f"checkpoint {last} is damaged: " in str(error) and "\n" not in str(error)
    assert not (tmp_path / "made").exists()


def test_a_signed_checkpoint_of_another_model(run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    last = list_checkpoints(tmp_path / "run")[-1]
    torch.save({"state": {}, "param_groups": [{"params": [0]}]}, last / "optimizer.bin")
    _sign(last)
    with pytest.raises(ValueError, match="it does not load: ValueError: loaded state dict has a different number"):
        _resume(videos, tmp_path / "run")


@pytest.mark.parametrize("text", ["[]", '{"run": 3}', '{"cake": {}}', "{", '{"run": {"seed": "3"}}'])
def test_a_signed_strange_configuration(text: str, run: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    last = list_checkpoints(tmp_path / "run")[-1]
    (last / "config.json").write_text(text)
    _sign(last)
    with pytest.raises(ValueError, match=r"config\.json"):
        _resume(videos, tmp_path / "run")


def test_every_file_has_the_mode_of_the_umask(run: Path) -> None:
    modes = {path.stat().st_mode for path in list_checkpoints(run)[-1].iterdir()}
    assert modes == {(run / "log.csv").stat().st_mode}
