"""One device or many: Hugging Face Accelerate runs DDP or FSDP2 as `accelerate launch` configures it.

The launcher's variables say which engine was asked for. Where that engine cannot run, Accelerate can run another one
without a word, so `prepare` checks which one wraps the model.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .._optional import require
from .precision import resolve_precision


def asked_engine() -> str:
    """The engine that `accelerate launch` or its configuration file asked for.

    Returns:
        "FSDP2", or "DDP", which torchrun alone means; one process then has no engine.

    Raises:
        ValueError: FSDP version 1, DeepSpeed or Megatron-LM was asked for.
    """
    for kind in ("DEEPSPEED", "MEGATRON_LM"):
        if _is_set(f"ACCELERATE_USE_{kind}"):
            raise ValueError(
                f"distributed_type {kind} was asked for; allowed: MULTI_GPU (DDP) and FSDP, whose version 2 divides "
                "weights, gradients and optimizer among processes (examples/configs/accelerate/fsdp2.yaml)"
            )
    if not _is_set("ACCELERATE_USE_FSDP"):
        return "DDP"
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ValueError(
            f"FSDP version {version} was asked for, only version 2 is supported: write `fsdp_version: 2` below "
            "`fsdp_config:` in the file of accelerate launch"
        )
    return "FSDP2"


def wrapping_engine(model: nn.Module) -> str:
    """The engine that wraps a model.

    Args:
        model: as `accelerator.prepare` returned it.

    Returns:
        "FSDP2", "DDP", or "no engine".
    """
    wrapped = getattr(model, "_orig_mod", model)  # Accelerate may compile what it has wrapped
    if isinstance(wrapped, FSDPModule) and all(isinstance(value, DTensor) for value in model.parameters()):
        return "FSDP2"
    return "DDP" if isinstance(wrapped, DistributedDataParallel) else "no engine"


def make_accelerator(precision: str, trackers: Sequence[str] = (), logging_dir: Path | None = None) -> Any:
    """Make the `accelerate.Accelerator` of a run.

    Args:
        precision: one of `PRECISIONS`.
        trackers: names of Accelerate's trackers; `RunLog` starts them.
        logging_dir: folder for the files of trackers.

    Returns:
        The accelerator, on the device and in the process group that `accelerate launch` or torchrun configured.

    Raises:
        ValueError: the precision is unknown; the engine that was asked for is not supported, or with settings that are
            not; or Accelerate does not find all processes, or would divide gradients.
        ImportError: Accelerate is missing, or too old for the engine.
    """
    accelerate = require("accelerate")
    precision, engine = resolve_precision(precision), asked_engine()
    # A forward pass uses each weight once, so autocast's cache would only keep copies of them.
    autocast = accelerate.utils.AutocastKwargs(cache_enabled=False)
    folder = None if logging_dir is None else str(logging_dir)
    plugin = _fsdp_plugin(accelerate, precision) if engine == "FSDP2" else None
    if not _has_device() and "LOCAL_RANK" in os.environ:
        accelerate.PartialState(cpu=True)  # else each process would take itself for the only one
        if engine == "FSDP2":
            _let_cpus_shard(accelerate)
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[autocast],
        log_with=list(trackers) or None,
        project_config=accelerate.utils.ProjectConfiguration(logging_dir=folder),
        fsdp_plugin=plugin,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        if "LOCAL_RANK" not in os.environ:
            raise ValueError(
                f"WORLD_SIZE is {started}, and LOCAL_RANK is not set: start with torchrun or accelerate launch, or "
                "unset WORLD_SIZE to train in one process"
            )
        raise ValueError(f"the launcher started {started} processes, Accelerate finds {accelerator.num_processes}")
    if accelerator.gradient_accumulation_steps != 1:  # it would divide gradients
        raise ValueError(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS must be 1, because --accumulate divides batches, got "
            f"{accelerator.gradient_accumulation_steps}"
        )
    return accelerator


def prepare(accelerator: Any, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Wrap model and optimizer in the engine that was asked for. FSDP2 shards the model block by block.

    The blocks are the modules of the classes that `_no_split_modules` names, of the model or of one inside it; our
    models and those of transformers have it. `fsdp_transformer_layer_cls_to_wrap` of accelerate launch overrides it.

    Args:
        accelerator: what `make_accelerator` returned.
        model: the bare model.
        optimizer: of its parameters.

    Returns:
        The wrapped model, and the wrapped optimizer.

    Raises:
        ValueError: FSDP2 cannot shard the model, since no module is a block or a parameter is a single number; or
            another engine wraps the model than was asked for.
    """
    if accelerator.distributed_type.value == "FSDP":
        check_shapes(model)
        plugin = accelerator.state.fsdp_plugin
        if plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = block_classes(model)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    check_engine(wrapped, accelerator.num_processes)
    return wrapped, optimizer


def block_classes(model: nn.Module) -> list[str]:
    """Names of the classes of blocks in a model, by `_no_split_modules` of it and of the models inside it.

    Args:
        model: the bare model.

    Returns:
        The names, sorted.

    Raises:
        ValueError: there is none.
    """
    modules = list(model.modules())
    named = {name for module in modules for name in getattr(module, "_no_split_modules", None) or ()}
    found = sorted(named & {type(module).__name__ for module in modules})
    if not found:
        raise ValueError(
            f"{type(model).__name__} does not name its blocks, so FSDP2 would gather it whole: name their class by "
            "`fsdp_transformer_layer_cls_to_wrap` in the file of accelerate launch"
        )
    return found


def check_shapes(model: nn.Module) -> None:
    """Check that FSDP2 can shard the parameters of a model, which it divides along their first dimension.

    Args:
        model: the bare model.

    Raises:
        ValueError: a parameter has no dimension.
    """
    numbers = [name for name, parameter in model.named_parameters() if not parameter.ndim]
    if numbers:
        raise ValueError(
            f"FSDP2 cannot shard parameters that are single numbers, and {type(model).__name__} has "
            f"{', '.join(numbers[:4])}: train it with DDP"
        )


def check_engine(model: nn.Module, num_processes: int) -> None:
    """Check that the engine that was asked for wraps the model.

    Args:
        model: as `accelerator.prepare` returned it.
        num_processes: number of training processes.

    Raises:
        ValueError: another engine wraps it, or none.
    """
    asked, found = asked_engine(), wrapping_engine(model)
    if asked != found and (asked, num_processes, found) != ("DDP", 1, "no engine"):
        raise ValueError(
            f"{asked} was asked for, and the model is wrapped by {found}, in {num_processes} processes on "
            f"{next(model.parameters()).device.type}"
        )


def everywhere(accelerator: Any, holds: bool | Tensor) -> bool:
    """Whether something holds in all processes. Every rank calls this; of several, it is a host sync.

    Args:
        accelerator: the `accelerate.Accelerator` of the run.
        holds: whether it holds in this process.

    Returns:
        The same in all.
    """
    if accelerator.num_processes == 1:
        return bool(holds)
    count = torch.as_tensor(holds, dtype=torch.int64, device=accelerator.device)
    return int(accelerator.reduce(count, reduction="sum")) == accelerator.num_processes


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def _has_device() -> bool:
    """Whether processes run on devices other than CPUs."""
    return torch.accelerator.is_available() and not _is_set("ACCELERATE_USE_CPU")


def _fsdp_plugin(accelerate: Any, precision: str) -> Any:
    """Settings of FSDP2: blocks are sharded one by one, and gradients of bfloat16 passes are added in float32."""
    if _is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        raise ValueError(
            "fsdp_activation_checkpointing is set: leave it out and give --activation-checkpointing, which keeps names"
        )
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise ValueError("fsdp_offload_params is set: leave it out; a batch goes to the device of the weights")
    kind = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    if kind != "SHARDED_STATE_DICT":
        raise ValueError(f"fsdp_state_dict_type is {kind}; allowed: SHARDED_STATE_DICT, the default")
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else None
    asked = os.environ.get("FSDP_AUTO_WRAP_POLICY")
    try:
        return accelerate.FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy=asked or "transformer_based_wrap",
            mixed_precision_policy=policy,
            # Every process builds the model from the same seed or file. The launcher sets this variable unasked, and
            # transformers would then read weights in the first process only.
            cpu_ram_efficient_loading=False,
        )
    except TypeError as error:
        raise ImportError(f"FSDP2 needs accelerate >= 1.6, got {accelerate.__version__}") from error


def _let_cpus_shard(accelerate: Any) -> None:
    """Have Accelerate run FSDP2 on CPUs, where it would run DDP without a word.

    FSDP2 itself runs on CPUs, which is how it is tested without GPUs. Accelerate chooses it by the kind of processes,
    which it keeps in a dict that all its states share.
    """
    shared, kinds = getattr(accelerate.PartialState, "_shared_state", {}), accelerate.DistributedType
    if "distributed_type" not in shared:
        raise ImportError(f"accelerate {accelerate.__version__} cannot run FSDP2 on CPUs; 1.15 can")
    if shared["distributed_type"] == kinds.MULTI_CPU:
        shared["distributed_type"] = kinds.MULTI_GPU


@contextmanager
def last_part(accelerator: Any, model: nn.Module, is_last: bool) -> Iterator[None]:
    """Run forward and backward of one part of a batch: ranks add up their gradients in the last part only.

    Args:
        accelerator: the `accelerate.Accelerator` that `make_accelerator` returned.
        model: as `accelerator.prepare` returned it.
        is_last: whether the optimizer steps after this part.
    """
    accelerator.sync_gradients = is_last
    if is_last:
        yield
    else:
        with accelerator.no_sync(model):
            yield
