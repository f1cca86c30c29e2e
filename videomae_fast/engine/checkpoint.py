"""Checkpoints of a run: complete or absent, never half written.

`<output>/checkpoints/step-00000123/` holds the files of Accelerate (model.safetensors with the model's own names,
optimizer, random states), `config.json` and `state.json`. The folder has another name until it is complete.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

_NAME = re.compile(r"step-(\d{8,})$")


def prepare_output(output: str, resume: bool) -> Path:
    """Make the output folder of a run.

    Args:
        output: the folder; this makes it if it does not exist.
        resume: whether the run continues from a checkpoint in it.

    Returns:
        The folder.

    Raises:
        ValueError: `output` is empty, cannot be written, or holds checkpoints although `resume` is False.
    """
    if not output:
        raise ValueError("output is empty: name a folder for the run")
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"output folder {folder} cannot be written: {error}") from error
    if list_checkpoints(folder) and not resume:
        raise ValueError(f"output folder {folder} holds checkpoints: continue with --resume or choose another folder")
    return folder


def list_checkpoints(output: Path) -> list[Path]:
    """Complete checkpoints in the output folder of a run, oldest first."""
    folder = output / "checkpoints"
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def save_checkpoint(
    accelerator: Any, output: Path, step: int, config: Any, order: dict[str, Any], keep_checkpoints: int = 0
) -> Path:
    """Save a run. Every rank calls this.

    Args:
        accelerator: `accelerate.Accelerator` that holds the prepared model and optimizer.
        output: folder of the run.
        step: finished steps.
        config: the recipe's configuration, saved as config.json.
        order: all that the data order depends on besides the configuration; a run only continues with the same.
        keep_checkpoints: number of newest checkpoints to keep; 0 keeps all.

    Returns:
        The folder of the checkpoint.
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
        if keep_checkpoints:
            for old in list_checkpoints(output)[:-keep_checkpoints]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Any, checkpoint: Path, config: Any, order: dict[str, Any]) -> int:
    """Restore weights, optimizer and random states.

    Args:
        accelerator: `accelerate.Accelerator` that holds the prepared model and optimizer.
        checkpoint: folder that `save_checkpoint` made.
        config: the configuration of the run that continues.
        order: all that the data order depends on besides the configuration, as `save_checkpoint` got it.

    Returns:
        The number of finished steps.

    Raises:
        ValueError: settings, data or samples per step differ from the checkpoint.
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
