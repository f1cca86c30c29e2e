"""Checkpoints in the layout of the VideoMAE V2 release (https://github.com/OpenGVLab/VideoMAEv2).

A published `checkpoint-{epoch}.pth` is a dict whose `model` holds the weights, next to `optimizer`, `epoch`, `scaler`
and `args`; DeepSpeed puts the weights under `module`. The models here have the published names, so that reading
a checkpoint is a matter of unwrapping it, and nothing is renamed.
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._optional import require

State = dict[str, Tensor]

_WRAPPERS = ("model", "module")
_PREFIXES = ("_orig_mod.", "module.", "backbone.")  # of torch.compile, of DDP and DeepSpeed, of downstream code

# What published training files hold beside tensors and plain values. `args` is a Namespace. The learning rates in the
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


def load_published(source: str | os.PathLike[str] | Mapping[str, Any]) -> State:
    """The weights of a checkpoint on the CPU, {published name: tensor}, without wrappers and prefixes.

    `source` is a file that `torch.save` wrote, a `.safetensors` file, or the dict that such a file holds (whose
    tensors are then returned as they are). Wrappers are the keys `model` and `module`, prefixes `_orig_mod.`,
    `module.` and `backbone.`. Files are read with `weights_only=True`: unpickling one runs no code of its author's.

    FileNotFoundError if there is no such file; CheckpointError if it is damaged, holds arbitrary Python objects, or
    does not come down to a dict of tensors.
    """
    if isinstance(source, Mapping):
        return _unwrap(source, "the checkpoint given")
    path = Path(source)
    if not path.is_file():
        kind = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint {str(path)!r} {kind}")
    return _unwrap(_read(path), f"checkpoint {str(path)!r}")


def save_published(
    model_or_state: nn.Module | Mapping[str, Any], path: str | os.PathLike[str], epoch: int | None = None
) -> None:
    """Write {"model": weights} (and "epoch", which the release counts from 0) to `path`, wholly or not at all.

    The weights are those that `load_published` would find in `model_or_state`: a model wrapped for training is
    saved under plain names. The directory must exist (FileNotFoundError).
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ValueError(
            f"path is {str(path)!r}; the published layout is a torch.save file, such as 'checkpoint-0.pth'"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path is {str(path)!r}; its directory does not exist")
    given = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    # clone: torch.save writes the whole storage of a tensor that is a view of a larger one.
    state = {name: t.detach().cpu().clone() for name, t in _unwrap(given, "model_or_state").items()}
    checkpoint: dict[str, Any] = {"model": state} if epoch is None else {"model": state, "epoch": epoch}
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> tuple[list[str], list[str]]:
    """Copy `state` into `model`, which stays untouched if anything does not fit; returns (missing, unexpected) names.

    CheckpointError names the tensors whose shapes differ and, if `strict`, those that the checkpoint lacks or the
    model does not have. With `strict=False` the latter two are left to the caller, in the result.
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
    if problems:
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: " + "; ".join(problems))
    model.load_state_dict(state, strict=False)
    return missing, unexpected


def key_problems(missing: Iterable[str], unexpected: Iterable[str]) -> list[str]:
    """Phrases for an error message that name the keys that are missing and those that are not known."""
    named = (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
    return [f"{problem}: {_some(names)}" for problem, names in named if names]


def _some(items: list[str], limit: int = 8) -> str:
    rest = f", and so on ({len(items)} in all)" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        safetensors, load_file = require("safetensors"), require("safetensors.torch").load_file
        try:
            return load_file(path)
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"checkpoint {str(path)!r} is damaged: {error}") from error
    with open(path, "rb") as file, torch.serialization.safe_globals(_SAFE):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail anywhere in the unpickler, and with anything
            failure = error
    lines = str(failure).splitlines() or [""]
    reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
    raise CheckpointError(
        f"checkpoint {str(path)!r} is damaged, or holds objects other than tensors, plain values, argparse.Namespace "
        f"and numpy numbers, which are not loaded from a file: {type(failure).__name__}: {reason}"
    ) from failure


def _unwrap(checkpoint: Any, what: str) -> State:
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


def _strip(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
