"""`--init`: a run starts from weights, unless it continues."""

from pathlib import Path

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.interop import load_published, save_published
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.recipes.pretrain import pretrain


@pytest.fixture
def weights(videos: Path, tmp_path: Path) -> Path:
    torch.manual_seed(11)
    model = VideoMAEForPretraining(tiny.settings(videos, tmp_path).model_config())
    save_published(model, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_run_starts_from_its_weights(
    weights: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step has learning rate 0 and changes no weight."""
    result = pretrain(tiny.settings(videos, tmp_path / "run", init=str(weights), max_steps=1))
    assert f"all weights are from {weights}" in capsys.readouterr().out
    given, saved = load_published(weights), load_published(result.checkpoint / "model.safetensors")
    assert given.keys() == saved.keys() and all(torch.equal(given[name], saved[name]) for name in given)
    pretrain(tiny.settings(videos, tmp_path / "plain", max_steps=1))
    assert tiny.losses(tmp_path / "run") != tiny.losses(tmp_path / "plain")


def test_a_checkpoint_of_a_run_is_such_weights(videos: Path, tmp_path: Path) -> None:
    first = pretrain(tiny.settings(videos, tmp_path / "first", max_steps=4)).checkpoint
    second = pretrain(tiny.settings(videos, tmp_path / "second", init=str(first), max_steps=1)).checkpoint
    trained, start = (load_published(path / "model.safetensors") for path in (first, second))
    assert all(torch.equal(trained[name], start[name]) for name in trained)


def test_the_folder_of_a_run_is_its_last_checkpoint(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pretrain(tiny.settings(videos, tmp_path / "first", max_steps=4, save_every=2)).checkpoint
    pretrain(tiny.settings(videos, tmp_path / "second", init=str(tmp_path / "first"), max_steps=1))
    assert f"all weights are from {first}" in capsys.readouterr().out and first.name == "step-00000004"


def test_resume_wins_and_says_so(
    weights: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path of --init may differ then, and its file may be gone."""
    pretrain(tiny.settings(videos, tmp_path / "run", init=str(weights), max_steps=2))
    pretrain(tiny.settings(videos, tmp_path / "run", init="/gone.pth", resume=True))
    assert "--resume continues from a checkpoint: --init /gone.pth is not read" in capsys.readouterr().out
    pretrain(tiny.settings(videos, tmp_path / "whole", init=str(weights), resume=True))  # no checkpoint yet
    assert tiny.losses(tmp_path / "run") == tiny.losses(tmp_path / "whole")


def test_weights_that_do_not_fit(
    weights: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_published(weights)
    del state["mask_token"]
    save_published(state | {"teacher.weight": torch.zeros(2)}, tmp_path / "other.pth")
    config = tiny.settings(videos, tmp_path / "run", init=str(tmp_path / "other.pth"), max_steps=1)
    assert main(tiny.arguments(config)) == 2
    error = capsys.readouterr().err.strip()
    assert "mask_token" in error and "teacher.weight" in error and "\n" not in error
    pretrain(config.with_options(init_partial=True))
    out = capsys.readouterr().out
    assert "mask_token" in out and "teacher.weight" in out


def test_missing_weights(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tiny.arguments(tiny.settings(videos, tmp_path / "run", init="/no/such/weights.pth"))) == 2
    assert "/no/such/weights.pth" in capsys.readouterr().err
