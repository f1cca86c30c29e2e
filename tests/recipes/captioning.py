"""Runs of `caption` small enough for a test. Run as a module, it is the command line with the tiny towers."""

import sys
from pathlib import Path
from typing import Any

from tests.models.chatting import CHATML, language_model, tokenizer
from tests.recipes import aligned, tiny
from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS
from videomae_fast.recipes.caption import CaptionConfig

SETTINGS: dict[str, Any] = {  # of `write_pairs`: 8 videos and 8 images, batches of 4: 4 steps per epoch
    "model": "tiny",
    "num_frames": 4,
    "image_size": 32,
    "sampling": "uniform",
    "connector": "resampler",
    "queries": 2,
    "connector_depth": 1,
    "prompt": "What moves?",
    "max_tokens": 60,
    "workers": 0,
    "epochs": 2,
    "batch_size": 4,
    "lr": 0.1,  # 1.6e-3 after scaling
    "final_lr": 1e-3,
    "precision": "fp32",
    "seed": 3,
    "log_every": 1,
    "save_every": 100,
    "track": "none",
}


def write_language_model(folder: Path, template: str | None = CHATML, **changes: Any) -> Path:
    """A folder of a random LLaMA of two layers, and of a tokenizer that divides words into one to four tokens."""
    language_model(**changes).save_pretrained(folder)
    tokenizer(template, ["the red rows move", "a wide image"]).save_pretrained(folder)
    return folder


def settings(data: Path, language: Path, output: Path, /, **changes: Any) -> CaptionConfig:
    """A run of `SETTINGS`; what `changes` says is different."""
    given = {"data": str(data), "language_model": str(language), "output": str(output)}
    return CaptionConfig.from_options(**(SETTINGS | given | changes))


if __name__ == "__main__":
    from videomae_fast.cli import main

    CONFIGS["tiny"], INTERNVIDEO2_CONFIGS["tiny"] = tiny.TINY, aligned.STUDENT
    sys.exit(main())
