"""Files of weights in any layout: read and unwrap them, write them whole or not at all, copy them into a model."""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._files import atomic_write, disk_errors
from .._optional import require
from .._shards import is_sharded, read_shards
from .._text import printable

State = dict[str, Tensor]
Source = str | os.PathLike[str] | Mapping[str, Any]

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # the weights in a folder of transformers or of a run
_WRAPPERS = ("model", "module")
_PREFIXES = ("_orig_mod.", "module.", "backbone.")  # of torch.compile, of DDP and DeepSpeed, of downstream code

# Published training files hold these beside tensors and plain values. `args` is a Namespace. The learning rates in the
# optimizer's parameter groups are numpy numbers, whose constructor numpy < 2 pickled under another module name.
_scalar = np.float64(0).__reduce__()[0]
_SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float64)),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit."""


def read_weights(source: Source) -> State:
    """Read the weights of a file or folder to the CPU, under their own names, without wrappers and prefixes.

    Args:
        source: a file that `torch.save` wrote, a `.safetensors` file, a folder that holds one of FOLDER_FILES or the
            shards of FSDP2, or a loaded checkpoint (a dict), whose tensors are returned as they are.

    Returns:
        {name: tensor}.

    Raises:
        FileNotFoundError: `source` does not exist.
        CheckpointError: the folder holds no weights; or the file is damaged, holds Python objects other than plain
            values, or has no dict of tensors inside.
    """
    if isinstance(source, Mapping):
        return unwrap(source, "the checkpoint given")
    path = weights_file(Path(source))
    return unwrap(read_checkpoint(path), f"checkpoint {str(path)!r}")


def weights_file(path: Path) -> Path:
    """Find the file of weights.

    Args:
        path: a file, or a folder that holds one of FOLDER_FILES or the shards of FSDP2.

    Returns:
        `path` if it is a file, else the file in the folder; the folder itself if it holds shards alone.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the folder holds no weights, or `path` is a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    if path.is_file():
        return path
    if not path.is_dir():  # a pipe would wait for its writer
        raise CheckpointError(f"checkpoint {str(path)!r} is no regular file and no folder")
    found = [file for name in FOLDER_FILES if (file := path / name).is_file()]
    if not found and is_sharded(path):
        return path
    if not found:
        raise CheckpointError(f"folder {str(path)!r} has none of {', '.join(FOLDER_FILES)}")
    return found[0]


def joined_file(path: Path) -> Path:
    """`weights_file`, where shards alone will not do.

    Args:
        path: as `weights_file` takes it.

    Returns:
        The file.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: as `weights_file` raises it; or the folder holds shards alone, and the message says how to join
            them.
    """
    file = weights_file(path)
    if file.is_dir():
        command = f"videomae-fast convert {file} weights.safetensors --to published"
        raise CheckpointError(f"folder {str(file)!r} has its weights in shards; this makes one file of them: {command}")
    return file


def unwrap(checkpoint: Any, what: str) -> State:
    """The tensors of a loaded checkpoint: below `model` or `module`, without the prefixes of wrappers.

    Args:
        checkpoint: what `torch.load` returned.
        what: the name of the checkpoint in messages.

    Returns:
        {name: tensor}.

    Raises:
        CheckpointError: `checkpoint` is no dict of tensors, or holds a name twice.
    """
    while isinstance(checkpoint, Mapping):
        inner = next((checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None:
            break
        checkpoint = inner
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        found = "an empty dict" if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise CheckpointError(f"{what} should hold a dict of tensors, perhaps under 'model' or 'module'; found {found}")
    others = [f"{key!r} ({type(value).__name__})" for key, value in checkpoint.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{what} should hold tensors only, perhaps under 'model' or 'module'; found {_some(others)}"
        )
    state = {_strip(str(key)): tensor for key, tensor in checkpoint.items()}
    if len(state) < len(checkpoint):
        raise CheckpointError(f"{what} holds some names twice, with and without one of the prefixes {_PREFIXES}")
    return state


def without_encoder(state: Mapping[str, Tensor]) -> State:
    """The names of a state dict without the prefix `encoder.`.

    Args:
        state: weights in the published layout.

    Returns:
        {name: tensor}.

    Raises:
        CheckpointError: a name is there twice, with and without the prefix.
    """
    result = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    if len(result) < len(state):
        raise CheckpointError("it holds some names twice, with and without the prefix 'encoder.'")
    return result


def write_safetensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors alone, whole or not at all, with the `format` entry that transformers requires.

    Args:
        state: {name: tensor}.
        path: the file to make or replace.
        metadata: further entries of the header.

    Raises:
        ImportError: safetensors is missing.
        OSError: the disk is full or broken.
    """
    with disk_errors(path), atomic_write(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode & 0o777  # as the umask wants it; safetensors 0.8 lets only the owner read
        require("safetensors.torch").save_file(dict(state), partial, metadata={"format": "pt", **(metadata or {})})
        partial.chmod(mode)


def write_torch(checkpoint: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all, even if the machine stops.

    Args:
        checkpoint: tensors and plain values.
        path: the file to make or replace.

    Raises:
        OSError: the disk is full or broken.
    """
    with disk_errors(path), atomic_write(path) as partial, open(partial, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def load_weights(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> tuple[list[str], list[str]]:
    """Copy weights into a model, which stays untouched if they do not fit.

    Args:
        model: any module; its tensors keep their dtype and device.
        state: {name: tensor} with the names of `model.state_dict()`.
        strict: whether every name must be in both. Shapes must always be equal.

    Returns:
        (missing, unexpected): sorted names that only the model has, and that only `state` has; both empty if `strict`.

    Raises:
        CheckpointError: shapes differ, or names do and `strict` is set; the message names the tensors.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the checkpoint, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = key_problems(missing, unexpected) if strict else []
    if shapes:
        problems.append(f"of another shape, as in a checkpoint of another size: {_some(shapes)}")
        problems += _other_patch(state, own)
    if problems:
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: " + "; ".join(problems))
    model.load_state_dict(state, strict=False)
    return missing, unexpected


def _other_patch(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """A phrase where tokens have other sizes, which an option sets."""
    for name, tensor in own.items():
        theirs, ours = (each.shape[-2:] for each in (state.get(name, tensor), tensor))
        if name.endswith("patch_embed.proj.weight") and theirs != ours:
            sizes = ("x".join(map(str, shape)) for shape in (theirs, ours))
            return ["the checkpoint has tokens of {} pixels, the model of {} (patch_size, --patch-size)".format(*sizes)]
    return []


def key_problems(missing: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    """Phrases for an error message.

    Args:
        missing: names that are missing.
        unexpected: names that are not known.

    Returns:
        A phrase for each of the two that is not empty.
    """
    named = (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
    return [f"{problem}: {_some(names)}" for problem, names in named if names]


def _some(items: list[str], limit: int = 8) -> str:
    rest = f", and so on ({len(items)} in all)" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def read_checkpoint(path: Path) -> Any:
    """All that a file of weights holds, on the CPU. No code in the file runs.

    Args:
        path: a file that `torch.save` wrote, a `.safetensors` file, or a folder with shards.

    Returns:
        The object, such as a dict of tensors and settings.

    Raises:
        CheckpointError: the file is damaged, or holds Python objects other than plain values.
    """
    name = repr(str(path))
    if path.is_dir():
        try:
            return read_shards(path)
        except ValueError as error:
            raise CheckpointError(f"checkpoint {name} cannot be read: {_first_line(error)}") from error
    if path.suffix == ".safetensors":
        require("safetensors")
        try:
            return require("safetensors.torch").load_file(path)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged header can fail in safetensors and, for sizes and dtypes, in torch
            raise CheckpointError(f"checkpoint {name} is damaged: {_first_line(error)}") from error
    with open(path, "rb") as file, torch.serialization.safe_globals(_SAFE):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail anywhere in the unpickler, with any exception
            failure = error
    raise CheckpointError(
        f"checkpoint {name} is damaged, or holds objects other than tensors, plain values, argparse.Namespace "
        f"and numpy numbers, which are not loaded from a file: {type(failure).__name__}: {_reason(failure)}"
    ) from failure


def _reason(failure: Exception) -> str:
    """What torch.load found, without its advice to load the file in a way that runs the code in it."""
    advice, _, found = str(failure).partition("WeightsUnpickler error:")
    lines = (found or advice).strip().splitlines() or [""]
    return printable(next((line for line in lines if "GLOBAL" in line), lines[0]))[:300]


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])[:300]


def _strip(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
