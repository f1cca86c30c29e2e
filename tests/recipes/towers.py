"""Evaluations of two towers, and their features made one by one."""

from pathlib import Path
from typing import Any

from torch import Tensor

from videomae_fast.data import ViewDataset
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.two_towers import TwoTowers

FAST: dict[str, Any] = {"workers": 0, "precision": "fp32", "batch_size": 3}


def evaluation(data: Path, run: Path, /, **changes: Any) -> EvaluateConfig:
    given = {"task": "retrieval", "data": str(data), "init": str(run)}
    return EvaluateConfig.from_options(**(FAST | given | changes))


def text_features(towers: TwoTowers, text: str) -> Tensor:
    tokens, _ = towers.tokenizer([text])
    return towers.model.project_text(towers.model.encode_text(*tokens).pooled)[0]


def pooled_rows(towers: TwoTowers, views: ViewDataset, index: int = 0) -> Tensor:
    """What the video tower makes of each view of a video."""
    clips = views[index].clips
    assert clips is not None
    return towers.model.encode_video(clips).pooled


def view(videos: Any, frames: int, **changes: Any) -> ViewDataset:
    shape: dict[str, Any] = {
        "num_frames": frames,
        "frame_stride": 4,
        "size": (32, 32),
        "short_side": 32,
        "segments": 1,
        "crops": 1,
    }
    return ViewDataset(videos, **(shape | {"sampling": "uniform"} | changes))
