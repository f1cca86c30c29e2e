"""A checkpoint continues in any number of processes, under DDP, FSDP2 or none: whole tensors and shards are converted.

Shards belong to names, which are the same in every engine, so each process reads what it needs of any number of shards.
Whole files are read in the first process, which hands each other one its shards.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import load
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from .._optional import require
from .._shards import SHARDS

_OPTIMIZER_SHARDS = "optimizer_0"  # Accelerate's names in a checkpoint
_MODEL, _OPTIMIZER = "model.safetensors", "optimizer.bin"


def load_shards(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Read the shards of a checkpoint into a model and an optimizer. Every rank calls this.

    Args:
        folder: a checkpoint of FSDP2.
        model: bare, or wrapped by DDP or FSDP2.
        optimizer: of its parameters, not wrapped.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        weights = {"model": get_model_state_dict(model)}
        load(weights, checkpoint_id=folder / SHARDS)
        set_model_state_dict(model, weights["model"])
        moments = {"optimizer": get_optimizer_state_dict(model, optimizer)}
        load(moments, checkpoint_id=folder / _OPTIMIZER_SHARDS)
        set_optimizer_state_dict(model, optimizer, moments["optimizer"])


def load_whole(folder: Path, model: nn.Module, optimizer: Optimizer, reads: bool) -> None:
    """Read the whole tensors of a checkpoint into a model that FSDP2 shards. Every rank calls this.

    Args:
        folder: a checkpoint of one process or of DDP.
        model: as FSDP2 shards it.
        optimizer: of its parameters, not wrapped.
        reads: whether this process reads the files; one of all does.
    """
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    weights = require("safetensors.torch").load_file(folder / _MODEL) if reads else {}
    set_model_state_dict(model, weights, options=options)
    saved = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True) if reads else {}
    moments = _by_name(saved, model, optimizer) if reads else {}
    set_optimizer_state_dict(model, optimizer, moments, options=options)


def _by_name(saved: dict[str, Any], model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer by names of parameters; `saved` has their numbers over all groups."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [group | {"params": [ordered[k] for k in group["params"]]} for group in saved["param_groups"]]
    return {"state": {ordered[k]: state for k, state in saved["state"].items()}, "param_groups": groups}
