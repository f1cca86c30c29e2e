"""Recipes under FSDP2 compute what one process computes, and a run continues in any number of processes.

The processes are started twice: two for the runs of all recipes, four to continue one of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import aligned, sharded, tiny
from videomae_fast.engine.checkpoint import list_checkpoints, saved_engine, saved_processes
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.interop.checkpoint import read_weights
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.recipes.config import Config
from videomae_fast.recipes.pretrain import pretrain

pytestmark = pytest.mark.slow
EVERY: dict[str, Any] = {"epochs": 2, "track": "none", "log_every": 1, "eval_every": 4, "save_every": 100}
CHAIN: dict[str, Any] = {"save_every": 100, "track": "none", "log_every": 1, "keep_checkpoints": 0, "clip_grad": 0.05}
NAMES = ("pretrain", "bf16", "finetune", "align")


@pytest.fixture(scope="module")
def folder(
    videos: Path,
    labelled: Path,
    aligners: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """The runs of two processes, after one process began the run `chain`. Seven videos are evaluated, which two
    processes share unevenly."""
    folder = tmp_path_factory.mktemp("engines")
    (videos.parent / "seven.txt").write_text("".join(f"{videos.name}/video{number}.mp4\n" for number in range(7)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        patch.setitem(INTERNVIDEO2_CONFIGS, "tiny", aligned.STUDENT)
        sharded.fresh()
        pretrain(tiny.settings(videos, folder / "chain", batch_size=4, max_steps=2, **CHAIN))
        chain = tiny.settings(videos, folder / "chain", batch_size=2, max_steps=3, resume=True, **CHAIN)
        given = (folder / "two", videos, labelled, aligners)
        runs = [*(settings(name, 2, *given) for name in NAMES), ("pretrain", chain)]
        out = sharded.launch(folder, [(name, config.flat()) for name, config in runs], 2)
    assert out.count("model.safetensors") == len(runs)
    assert "it is of 1 processes: each of the 2 draws dropout anew from here" in out
    yield folder


def settings(
    name: str,
    size: int,
    output: Path,
    videos: Path,
    labelled: Path,
    aligners: dict[str, Path],
) -> tuple[str, Config]:
    """The recipe and the options of a run with `size` samples per process and step, in two parts."""
    parts = {"batch_size": size // 2, "accumulate": 2}
    evaluated = EVERY | {"eval_data": str(videos.parent / "seven.txt")}
    if name == "pretrain":
        return name, tiny.settings(videos, output / name, clip_grad=0.05, drop_path=0.5, **evaluated, **parts)
    if name == "bf16":
        return "pretrain", tiny.settings(videos, output / name, batch_size=size, precision="bf16", **evaluated)
    if name == "finetune":
        options = tiny.PLAIN | EVERY | parts | {"eval_data": str(labelled), "layer_decay": 0.7}
        return name, tiny.finetuning(labelled, output / name, **options)
    teachers = {"video_teacher": str(aligners["video"]), "image_teacher": str(aligners["image"])}
    return name, aligned.settings(videos, output / name, **teachers, **evaluated, **parts)


def figures(run: Path, file: str = "log.csv") -> torch.Tensor:
    """The losses of a log."""
    return torch.tensor([float(row["loss"]) for row in read_log(run, file)], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(
    name: str,
    folder: Path,
    videos: Path,
    labelled: Path,
    aligners: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Under a bf16 policy the residual stream is bf16, too, which it is not under autocast: these are close."""
    recipe, config = settings(name, 4, tmp_path, videos, labelled, aligners)
    sharded.RECIPES[recipe][1](config)
    rtol = 1e-2 if name == "bf16" else 1e-5
    for file in ("log.csv", EVALUATIONS):
        one, two = figures(tmp_path / name, file), figures(folder / "two" / name, file)
        assert len(one) >= (1 if file == EVALUATIONS else 4)
        torch.testing.assert_close(two, one, rtol=rtol, atol=0)
    checkpoint = list_checkpoints(folder / "two" / name)[-1]
    assert saved_engine(checkpoint) == "FSDP2" and saved_processes(checkpoint) == 2


def test_a_run_continues_in_other_numbers_of_processes(folder: Path, videos: Path, tmp_path: Path) -> None:
    """1 (whole tensors) → 2 → 4 (shards) → 1: the losses and weights of a run without breaks."""
    whole = pretrain(tiny.settings(videos, tmp_path, batch_size=4, **CHAIN))
    chain = folder / "chain"
    four = tiny.settings(videos, chain, batch_size=1, max_steps=4, resume=True, **CHAIN)
    sharded.launch(folder, [("pretrain", four.flat())], 4)
    sharded.fresh()
    last = pretrain(tiny.settings(videos, chain, batch_size=4, resume=True, **CHAIN))
    saved = list_checkpoints(chain)
    assert [path.name for path in saved] == [f"step-{step:08d}" for step in (2, 3, 4, 6)]
    assert [saved_engine(path) for path in saved] == ["DDP", "FSDP2", "FSDP2", "DDP"]
    assert [saved_processes(path) for path in saved] == [1, 2, 4, 1]
    assert tiny.losses(chain) == pytest.approx(tiny.losses(tmp_path), rel=1e-5)
    ours, wanted = (read_weights(path) for path in (last.checkpoint, whole.checkpoint))
    assert ours.keys() == wanted.keys()
    one, other = (torch.cat([state[name].flatten() for name in wanted]) for state in (ours, wanted))
    assert (one - other).norm() < 1e-4 * other.norm()
