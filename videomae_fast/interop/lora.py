"""Weights of a run with low-rank adapters (LoRA), with the adapters merged into the matrices they adapt."""

from collections.abc import Mapping

from torch import Tensor

from .checkpoint import CheckpointError, State
from .settings import PathLike, settings_beside

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # as peft names them


def merged_lora(state: Mapping[str, Tensor], source: PathLike) -> State:
    """Merge adapters into the weights.

        weight = base weight + B·A, in float32, cast to the dtype of the base weight

    This is for checkpoints of `videomae-fast finetune --lora-rank`, whose scale is 1. Weights do not tell the scale of
    others, so a `config.json` of such a run must be beside them.

    Args:
        state: as `read_weights` returns it from `source`.
        source: file of weights, or folder that holds one.

    Returns:
        The weights with the names of a model without adapters; `state` as it is if it has none.

    Raises:
        CheckpointError: the adapters have another rank than `lora_rank` in the `config.json` beside them, or nothing
            beside them tells it; or they do not fit their matrix.
    """
    if not any(_BASE in name or ".lora_" in name for name in state):
        return dict(state)
    merged = {name.replace(_BASE, "."): tensor for name, tensor in state.items() if ".lora_" not in name}
    rank = settings_beside(source).get("lora_rank", 0)
    for layer in sorted({name.partition(".lora_")[0] for name in state if ".lora_" in name}):
        weight, a, b = merged.get(f"{layer}.weight"), state.get(layer + _A), state.get(layer + _B)
        if weight is None or a is None or b is None or (b.shape[0], a.shape[1]) != weight.shape or len(a) != b.shape[1]:
            raise CheckpointError(f"{layer} has adapters that do not fit a weight beside them")
        if len(a) != rank:
            raise CheckpointError(
                f"{layer} has adapters of rank {len(a)}, and no config.json of a run with --lora-rank "
                f"{len(a)} is beside the weights: their scale is not known, merge them with their own library"
            )
        merged[f"{layer}.weight"] = (weight.float() + b.float() @ a.float()).to(weight.dtype)
    return merged
