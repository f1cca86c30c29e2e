"""A run's last checkpoint gets one file of weights, if memory holds them; if not, the command is named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from videomae_fast._shards import SHARDS, sharded_bytes
from videomae_fast.cli.runs import show_weights
from videomae_fast.engine.checkpoint import check_checkpoint, join_shards
from videomae_fast.engine.loop import RunResult
from videomae_fast.engine.manifest import make_manifest

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
MAIN: Any = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints/step-00000003"
    dcp.save({"model": {"head.weight": torch.arange(6.0).view(2, 3)}}, checkpoint_id=folder / SHARDS)
    state = {"step": 3, "videos": 8, "files": make_manifest(folder, 0o640)}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def result(checkpoint: Path) -> RunResult:
    return RunResult(checkpoint, 3, is_main_process=True, finished=True)


def test_shards_are_joined_and_listed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((checkpoint / "state.json").read_text())
    assert join_shards(MAIN, checkpoint) == "" == join_shards(MAIN, checkpoint)  # the second time there is the file
    found = load_file(checkpoint / "model.safetensors")
    assert found.keys() == {"head.weight"} and torch.equal(found["head.weight"], torch.arange(6.0).view(2, 3))
    after = json.loads((checkpoint / "state.json").read_text())
    assert after["files"].pop("model.safetensors")[0] == (checkpoint / "model.safetensors").stat().st_size
    assert after == before
    check_checkpoint(MAIN, checkpoint)
    assert show_weights(result(checkpoint), "weights") == checkpoint / "model.safetensors"
    assert capsys.readouterr().out == f"weights: {checkpoint / 'model.safetensors'}\n"
    (checkpoint / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(ValueError, match=r"is damaged: model\.safetensors: it has 6 bytes"):
        check_checkpoint(MAIN, checkpoint)


@pytest.mark.parametrize("spare", [-1, 0])
def test_weights_that_do_not_fit(
    spare: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = SimpleNamespace(available=2 * sharded_bytes(checkpoint) + spare)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    line = join_shards(MAIN, checkpoint)
    assert bool(line) == (spare < 0) == (result(checkpoint).weights is None)
    if line:
        assert "GiB are needed to join the weights" in line
        assert show_weights(result(checkpoint), "weights") is None
        command = f"videomae-fast convert {checkpoint} weights.safetensors --to published"
        assert capsys.readouterr().out == f"weights are in shards; this makes one file of them: {command}\n"


def test_only_the_main_process_writes(checkpoint: Path) -> None:
    other: Any = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: None)
    assert join_shards(other, checkpoint) == "" and result(checkpoint).weights is None
