"""Checkpoints of a run: complete or absent, never half written.

`<output>/checkpoints/step-00000123/` holds what Accelerate saves (model.safetensors with the published names,
optimizer, random states), `config.json` and `state.json`. It is written under another name and renamed when done.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from .config import PretrainConfig

_NAME = re.compile(r"step-(\d{8,})$")


def list_checkpoints(output: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = output / "checkpoints"
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def save_checkpoint(accelerator: Any, output: Path, step: int, config: PretrainConfig, order: dict[str, Any]) -> Path:
    """Save after `step` finished steps, then delete all but the newest `config.keep_checkpoints`.

    Every rank calls this.

    `order` is what the data order hangs on besides the configuration; a run only continues with the same.
    """
    folder = output / "checkpoints"
    final, unfinished = folder / f"step-{step:08d}", folder / f".unfinished-{step:08d}"
    if final.is_dir():
        return final
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        config.save(unfinished / "config.json")
        (unfinished / "state.json").write_text(json.dumps({"step": step, **order}) + "\n")
        os.replace(unfinished, final)
        if config.keep_checkpoints:
            for old in list_checkpoints(output)[: -config.keep_checkpoints]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Any, checkpoint: Path, config: PretrainConfig, order: dict[str, Any]) -> int:
    """Restore weights, optimizer and random states; returns the number of finished steps.

    Errors: ValueError when the settings, the videos or the videos per step are not those of the checkpoint.
    """
    config.check_continues(checkpoint / "config.json")
    state = json.loads((checkpoint / "state.json").read_text())
    step = int(state.pop("step"))
    if state != order:
        raise ValueError(
            "a run continues with the videos and the order it began with (the folder of all may have moved): it had "
            f"{state}, now it has {order}"
        )
    accelerator.load_state(str(checkpoint))
    return step
