"""Checkpoints of a run: complete or absent, never half written, and never loaded when damaged.

`<output>/checkpoints/step-00000123/` holds the files of Accelerate (model.safetensors with the model's own names,
optimizer, random states), `config.json`, and `state.json`, which lists all files with their checksums. The folder has
another name until it is complete. Under FSDP2 weights and optimizer are in shards, and the last checkpoint of a run
also has model.safetensors.
"""

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import CheckpointException

from .._files import atomic_write, disk_errors, writable_folder
from .._optional import require
from .._shards import is_sharded, read_shards, reason_of, sharded_bytes
from .manifest import checksum, find_damage, make_manifest
from .parallel import asked_engine
from .reshard import load_shards, load_whole

_NAME = re.compile(r"step-(\d{8,})$")
_UNFINISHED = ".unfinished-"


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
    folder = writable_folder(output)
    if list_checkpoints(folder) and not resume:
        raise ValueError(f"output folder {folder} holds checkpoints: continue with --resume or choose another folder")
    return folder


def list_checkpoints(output: Path) -> list[Path]:
    """Complete checkpoints in the output folder of a run, oldest first."""
    folder = output / "checkpoints"
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def save_checkpoint(
    accelerator: Any,
    output: Path,
    step: int,
    config: Any,
    order: dict[str, Any],
    keep_checkpoints: int = 0,
    add_files: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Save a run. Every rank calls this; a rank that fails does not wait for the others.

    Args:
        accelerator: `accelerate.Accelerator` that holds the prepared model and optimizer.
        output: folder of the run.
        step: finished steps.
        config: the recipe's configuration, saved as config.json.
        order: all that the data order depends on besides the configuration; a run only continues with the same.
        keep_checkpoints: number of newest checkpoints to keep; 0 keeps all.
        add_files: writes further files into the folder; the main process calls it.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: the disk is full, over its quota, read-only or broken. Earlier checkpoints are as they were.
    """
    folder = output / "checkpoints"
    final, unfinished = folder / f"step-{step:08d}", folder / f"{_UNFINISHED}{step:08d}"
    if final.is_dir():
        return final
    try:
        with disk_errors(final):
            _write(accelerator, unfinished, step, config, order, add_files)
            if accelerator.is_main_process:
                os.replace(unfinished, final)
                for old in list_checkpoints(output)[:-keep_checkpoints] if keep_checkpoints else []:
                    shutil.rmtree(old)
    except BaseException:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    return final


def _write(
    accelerator: Any,
    folder: Path,
    step: int,
    config: Any,
    order: dict[str, Any],
    add_files: Callable[[Path], None],
) -> None:
    if accelerator.is_main_process:
        for old in folder.parent.glob(f"{_UNFINISHED}*"):  # left by runs that were killed
            shutil.rmtree(old)
        folder.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(folder), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        config.save(folder / "config.json")
        add_files(folder)
        files = make_manifest(folder, (folder / "config.json").stat().st_mode & 0o777)
        text = json.dumps({"step": step, **order, "files": files}, indent=1)
        (folder / "state.json").write_text(text + "\n", encoding="utf-8")


def check_checkpoint(accelerator: Any, checkpoint: Path) -> None:
    """Check the files of a checkpoint, before a recipe reads any of them. Every rank calls this.

    Args:
        accelerator: the `accelerate.Accelerator` of the run; the main process checks, and the others wait.
        checkpoint: folder that `save_checkpoint` made.

    Raises:
        ValueError: a file is damaged or missing, which the message names with the checkpoint before.
    """
    if accelerator.is_main_process:
        _, order = _read_state(checkpoint)
        if damage := find_damage(checkpoint, order.get("files")):
            raise _damaged(checkpoint, damage)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Any,
    checkpoint: Path,
    config: Any,
    order: dict[str, Any],
    load_files: Callable[[Path], None] = lambda folder: None,
) -> int:
    """Restore weights, optimizer and random states, after `check_checkpoint`. Every rank calls this.

    The engine and the number of processes may be others than those that saved it; random states are then not those of
    the checkpoint.

    Args:
        accelerator: `accelerate.Accelerator` that holds the prepared model and optimizer.
        checkpoint: folder that `save_checkpoint` made.
        config: the configuration of the run that continues.
        order: all that the data order depends on besides the configuration, as `save_checkpoint` got it.
        load_files: reads further files of the folder; every rank calls it.

    Returns:
        The number of finished steps.

    Raises:
        ValueError: settings, data or samples per step differ from the checkpoint, or a file does not load, which the
            message names with the checkpoint before.
    """
    step, saved_order = _read_state(checkpoint)
    saved_order.pop("files", None)
    config.check_continues(checkpoint / "config.json")
    if saved_order != order:
        raise ValueError(
            "a run continues with the videos and the order it began with (the folder of all may have moved): by "
            f"{checkpoint / 'state.json'} it had {saved_order}, now it has {order}"
        )
    try:
        _load(accelerator, checkpoint)
        load_files(checkpoint)
    except (Exception, CheckpointException) as error:  # as they were saved, but not as this model, or torch, expects
        raise _damaged(checkpoint, f"it does not load: {reason_of(error)}") from error
    return step


def saved_engine(checkpoint: Path) -> str:
    """The engine that saved a checkpoint: "FSDP2", or "DDP", which also stands for one process.

    Args:
        checkpoint: folder that `save_checkpoint` made.
    """
    return "FSDP2" if is_sharded(checkpoint) else "DDP"


def saved_processes(checkpoint: Path) -> int:
    """The number of processes that saved a checkpoint.

    Args:
        checkpoint: folder that `save_checkpoint` made.
    """
    return len(list(checkpoint.glob("random_states_*.pkl")))


def _load(accelerator: Any, checkpoint: Path) -> None:
    """Restore weights and optimizer, and random states if the checkpoint has those of as many processes."""
    saved, engine = saved_engine(checkpoint), asked_engine()
    if saved == engine and saved_processes(checkpoint) == accelerator.num_processes:
        accelerator.load_state(str(checkpoint))
        return
    model, optimizer = accelerator._models[0], accelerator._optimizers[0].optimizer
    if saved == "FSDP2":
        load_shards(checkpoint, model, optimizer)
    elif engine == "FSDP2":
        load_whole(checkpoint, model, optimizer, accelerator.is_main_process)
    else:
        accelerator.load_state(str(checkpoint))


def join_shards(accelerator: Any, checkpoint: Path) -> str:
    """Write model.safetensors beside the shards of a checkpoint, if memory holds the weights. Every rank calls this.

    Args:
        accelerator: the `accelerate.Accelerator` of the run; the main process reads and writes, and the others wait.
        checkpoint: folder that `save_checkpoint` made.

    Returns:
        A line that says why the file is not written, and then the checkpoint is as it was; "" if it is, or if there are
        no shards.
    """
    line = ""
    if is_sharded(checkpoint) and accelerator.is_main_process:
        needed = 2 * sharded_bytes(checkpoint)  # the tensors, and the bytes that safetensors makes of them
        free = _free_memory()
        if needed > free:
            line = f"{needed / 2**30:.0f} GiB are needed to join the weights, and {free / 2**30:.0f} GiB are free"
        else:
            try:
                _write_joined(checkpoint)
            except (OSError, ValueError) as error:  # all that the run computed is saved
                line = f"they could not be joined: {error}"
    accelerator.wait_for_everyone()
    return line


def _free_memory() -> int:
    """Bytes; a container or a batch system may allow less than the machine has free."""
    free = int(importlib.import_module("psutil").virtual_memory().available)  # Accelerate needs psutil
    group = Path("/sys/fs/cgroup")
    for limit, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
        part = group if limit == "max" else group / "memory"
        with suppress(OSError, ValueError):  # of the other version of control groups, or without a limit
            free = min(free, int((part / f"memory.{limit}").read_text()) - int((part / f"memory.{used}").read_text()))
    return free


def _write_joined(checkpoint: Path) -> None:
    path, index = checkpoint / "model.safetensors", checkpoint / "state.json"
    if path.is_file():
        return
    with disk_errors(path), atomic_write(path) as partial:
        require("safetensors.torch").save_file(read_shards(checkpoint), partial, metadata={"format": "pt"})
        mode = index.stat().st_mode & 0o777
        partial.chmod(mode)
        added = [partial.stat().st_size, checksum(partial, flush=True)]
    state = json.loads(index.read_text(encoding="utf-8"))
    state["files"] = dict(sorted((state["files"] | {path.name: added}).items()))
    with disk_errors(index), atomic_write(index) as partial:
        partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        partial.chmod(mode)


def _read_state(checkpoint: Path) -> tuple[int, dict[str, Any]]:
    """The step and the rest of state.json."""
    if not (checkpoint / "state.json").is_file():
        raise _damaged(checkpoint, "state.json: it is missing")
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(checkpoint, f"state.json: {error}") from error
    if not isinstance(state, dict):
        raise _damaged(checkpoint, f"state.json: it must hold an object, not {type(state).__name__}")
    step, named = state.pop("step", None), int(checkpoint.name.removeprefix("step-"))
    if type(step) is not int or step != named:
        raise _damaged(checkpoint, f"state.json: step must be {named}, got {str(step)[:40]}")
    return step, state


def _damaged(checkpoint: Path, damage: str) -> ValueError:
    saved = list_checkpoints(checkpoint.parent.parent)
    before = [path for path in saved[: saved.index(checkpoint)] if (path / "state.json").is_file()]
    way = f"continues from {before[-1]}" if before else "starts from the beginning: there is no checkpoint before it"
    return ValueError(f"checkpoint {checkpoint} is damaged: {damage}. Delete or move that folder, and --resume {way}")
