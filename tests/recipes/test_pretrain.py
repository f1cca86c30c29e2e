"""The files that a run writes."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.recipes import tiny
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import COLUMNS, PROJECT, read_log
from videomae_fast.interop import load_published, load_weights
from videomae_fast.models import VideoMAEForPretraining
from videomae_fast.recipes.pretrain import Pretraining, pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop") / "run"


@pytest.fixture(autouse=True)
def finished(run: Path, videos: Path, tiny_size: None) -> None:
    """The run that the tests look at, made by the first of them."""
    if not run.exists():
        result = pretrain(tiny.settings(videos, run))
        assert (result.step, result.is_main_process) == (12, True)
        assert result.checkpoint == run / "checkpoints" / "step-00000012"


def test_log_has_a_row_per_step(run: Path) -> None:
    rows = read_log(run)
    assert [tuple(row) for row in rows] == [COLUMNS] * 12
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [int(row["epoch"]) for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(float(row["clips_per_second"]) > 0 for row in rows)
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert all(float(row["peak_memory_mib"]) > 10 for row in rows)


def test_losses_are_finite_and_fall(run: Path) -> None:
    losses = tiny.losses(run)
    assert all(map(math.isfinite, losses))
    assert len(set(losses)) == 12
    assert sum(losses[8:]) / 4 < sum(losses[:4]) / 4 - 0.005


def test_tensorboard_has_the_figures_of_the_log(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard" / PROJECT))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in COLUMNS[2:]}
    shown = events.Scalars("train/loss")
    assert [event.step for event in shown] == list(range(1, 13))
    assert [event.value for event in shown] == pytest.approx(tiny.losses(run), rel=1e-6)


def test_two_checkpoints_are_kept(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]
    assert [tiny.saved_step(path) for path in list_checkpoints(run)] == [8, 12]


def test_the_settings_are_saved(run: Path, videos: Path) -> None:
    saved = json.loads((list_checkpoints(run)[-1] / "config.json").read_text())
    assert saved == asdict(tiny.settings(videos, run))


def test_weights_are_in_the_published_layout(run: Path, videos: Path) -> None:
    model = VideoMAEForPretraining(tiny.settings(videos, run).model_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, last = (load_published(path / "model.safetensors") for path in list_checkpoints(run))
    assert load_weights(model, last) == ([], [])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, last[name])
        assert not torch.equal(tensor, before[name])
        assert not torch.equal(tensor, first[name])


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"keep_checkpoints": 0}, [4, 8, 12]),
        ({"keep_checkpoints": 1}, [12]),
        ({"keep_checkpoints": 3, "save_every": 5}, [5, 10, 12]),
        ({"keep_checkpoints": 2, "save_every": 5, "max_steps": 7}, [5, 7]),
        ({"max_steps": 100}, [8, 12]),
    ],
)
def test_keep_and_save_every(changes: dict, steps: list[int], videos: Path, tmp_path: Path) -> None:
    result = pretrain(tiny.settings(videos, tmp_path / "run", **changes))
    found = list_checkpoints(tmp_path / "run")
    assert [tiny.saved_step(path) for path in found] == steps
    assert result.checkpoint == found[-1]
    assert len(tiny.losses(tmp_path / "run")) == steps[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": "random", "decoder_mask": "random"},
        {"mask": "tube", "decoder_mask": "none"},
        {"decoder_context": "disjoint"},
        {"clip_grad": 0.02},
        {"precision": "bf16"},
        {"crops_per_video": 1, "log_every": 100},
    ],
    ids=str,
)
def test_other_settings_train(changes: dict, run: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path / "run", **changes))
    losses = tiny.losses(tmp_path / "run")
    assert len(losses) == 12
    assert all(map(math.isfinite, losses))
    assert losses != tiny.losses(run)  # the setting had an effect


def test_the_seed_decides(run: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path / "same"))
    pretrain(tiny.settings(videos, tmp_path / "other", seed=4))
    assert tiny.losses(tmp_path / "same") == tiny.losses(run)
    assert tiny.losses(tmp_path / "other") != tiny.losses(run)


def test_how_often_is_logged_changes_nothing(run: Path, videos: Path, tmp_path: Path) -> None:
    pretrain(tiny.settings(videos, tmp_path / "run", log_every=1, save_every=1))
    assert tiny.losses(tmp_path / "run") == tiny.losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"compile": True}, {"activation_checkpointing": True}], ids=str)
def test_losses_of_other_ways_to_compute_the_same(
    run: Path, videos: Path, tmp_path: Path, change: dict[str, bool]
) -> None:
    result = pretrain(tiny.settings(videos, tmp_path, **change))
    assert result.step == 12
    assert tiny.losses(tmp_path) == pytest.approx(tiny.losses(run), rel=1e-4)
    assert (
        load_published(result.checkpoint / "model.safetensors").keys()
        == VideoMAEForPretraining(tiny.TINY).state_dict().keys()
    )


def test_the_mask_token_does_not_decay(videos: Path, tmp_path: Path) -> None:
    model, optimizer = Pretraining(tiny.settings(videos, tmp_path)).build(torch.device("cpu"), print)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if p.ndim > 1 and not decays[id(p)]} == {"mask_token"}
