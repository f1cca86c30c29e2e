"""An aligned student on disk, and fine-tuning runs from it that are small enough for a test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.recipes import tiny
from tests.recipes.aligned import STUDENT
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import AlignmentHeads, InternVideo2ForAlignment
from videomae_fast.recipes.finetune import FinetuneConfig

HEADS = AlignmentHeads((0, 1), image_dim=12, pooled_dim=10, video_layers=(1,), video_dim=14)
FINETUNE: dict[str, Any] = tiny.FINETUNE | {"model": "internvideo2-tiny", "patch_size": 16, "num_frames": 4}
FINETUNE |= {"init_scale": 1.0, "track": "none"}


def make_aligned(folder: Path, num_frames: int = 4, heads: AlignmentHeads = HEADS) -> Path:
    """A folder like a checkpoint of `align`, whose every weight is random."""
    folder.mkdir(parents=True)
    torch.manual_seed(2)
    model = InternVideo2ForAlignment(replace(STUDENT, num_frames=num_frames, image_size=(32, 32), patch_size=16), heads)
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    write_safetensors(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"data": {"num_frames": num_frames, "image_size": 32}}))
    return folder


def finetuning(data: Path, output: Path, /, **changes: Any) -> FinetuneConfig:
    """A run on `write_labelled`; what `changes` says is different."""
    return FinetuneConfig.from_options(**(FINETUNE | {"data": str(data), "output": str(output)} | changes))
