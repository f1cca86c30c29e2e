"""Recipes under FSDP2 compute what one process computes, and continue in any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.recipes import aligned, paired, sharded, tiny
from videomae_fast.engine.log import EVALUATIONS, read_log
from videomae_fast.recipes.align import align
from videomae_fast.recipes.config import Config
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.finetune import finetune
from videomae_fast.recipes.pretrain import pretrain

Run = tuple[str, dict[str, Any]]


def figures(run: Path, file: str = "log.csv", name: str = "loss") -> torch.Tensor:
    """A column of a log, one row per step from 1 if it is the log of steps."""
    rows = read_log(run, file)
    if file == "log.csv":
        assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)


def same(one: torch.Tensor, other: torch.Tensor, rtol: float = 1e-5) -> None:
    assert len(one) > 1
    torch.testing.assert_close(other, one, rtol=rtol, atol=0)


def of(name: str, config: Config) -> Run:
    return name, config.flat()


@pytest.mark.slow
def test_recipes_under_fsdp2_equal_one_process(
    videos: Path, labelled: Path, pairs: Path, text_model: Path, tmp_path: Path
) -> None:
    """Evaluations have seven videos or pairs, which two ranks share unevenly. bf16 is close, not equal."""
    seven, seven_pairs = videos.parent / "seven.txt", pairs.parent / "seven.jsonl"
    seven.write_text("".join(f"{videos.name}/video{number}.mp4\n" for number in range(7)))
    seven_pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:7]))
    teachers = {
        "video_teacher": str(aligned.make_video_teacher(tmp_path / "video")),
        "image_teacher": str(aligned.make_image_teacher(tmp_path / "image.safetensors")),
    }
    every = {"epochs": 2, "track": "none", "log_every": 1, "eval_every": 4, "save_every": 100}
    evaluated = every | {"eval_data": str(seven)}

    def configs(folder: Path, size: int) -> dict[str, tuple[str, Config]]:
        parts = {"batch_size": size // 2, "accumulate": 2}
        pre = {"clip_grad": 0.05, "drop_path": 0.5, **evaluated, **parts}
        return {
            "pre": ("pretrain", tiny.settings(videos, folder / "pre", **pre)),
            "half": (
                "pretrain",
                tiny.settings(videos, folder / "half", batch_size=size, precision="bf16", **evaluated),
            ),
            "fine": (
                "finetune",
                tiny.finetuning(
                    labelled,
                    folder / "fine",
                    **(tiny.PLAIN | every | parts | {"eval_data": str(labelled), "layer_decay": 0.7}),
                ),
            ),
            "align": ("align", aligned.settings(videos, folder / "align", **teachers, **evaluated, **parts)),
            "pair": (
                "contrast",
                paired.settings(
                    pairs,
                    text_model,
                    folder / "pair",
                    batch_size=size,
                    micro_batch=2,
                    **every | {"eval_data": str(seven_pairs), "fusion_layers": 1, "words_weight": 0.0},
                    negatives="global",
                ),
            ),
        }

    recipes = {"pretrain": pretrain, "finetune": finetune, "align": align, "contrast": contrast}
    one, two = configs(tmp_path / "one", 4), configs(tmp_path / "two", 2)
    out = sharded.launch(tmp_path, [of(*run) for run in two.values()], 2)
    assert out.count("weights /") == len(two)
    for name, (recipe, config) in one.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        recipes[recipe](config)
        runs = (tmp_path / "one" / name, tmp_path / "two" / name)
        same(*(figures(run) for run in runs), rtol=1e-2 if name == "half" else 1e-5)
        if name != "half":
            torch.testing.assert_close(*(figures(run, EVALUATIONS) for run in runs), rtol=1e-5, atol=0)
