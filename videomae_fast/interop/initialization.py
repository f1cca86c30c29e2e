"""Start a model from weights of any known layout."""

import os
import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

from .checkpoint import CheckpointError, load_weights, read_weights
from .huggingface.weights import from_huggingface, is_huggingface


def init_weights(model: nn.Module, path: str | os.PathLike[str], strict: bool = True) -> str:
    """Initialise a model with weights of any known layout; the model stays untouched if they do not fit.

    Known layouts are the published one (`.pth` of the release, `.safetensors`, a training run's checkpoint folder or
    its `model.safetensors`) and Hugging Face's (a folder of `save_pretrained`, `model.safetensors`,
    `pytorch_model.bin`), in any bias layout.

    Args:
        model: a model of this library; its tensors keep their dtype and device.
        path: a file of weights, or a folder that holds one.
        strict: whether the file must hold every tensor of the model and nothing else. Shapes must always be equal.

    Returns:
        With `strict=False`, a report of the tensors that are missing in the file, which stay as they were, and of the
        tensors in the file that the model does not have; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read; shapes differ; no name is the model's; or, if `strict`, names are
            missing or unexpected.
    """
    state = read_weights(path)
    try:
        state = from_huggingface(state, strict) if is_huggingface(state) else state
        if not strict:
            _check_overlap(model, state)
        missing, unexpected = load_weights(model, state, strict)
    except CheckpointError as error:
        partly = "strict=False, or --init-partial, allows missing and unexpected names, not other shapes"
        allowed = f" ({partly})" if strict else ""
        raise CheckpointError(f"{str(path)!r} cannot initialise {type(model).__name__}: {error}{allowed}") from error
    if not missing and not unexpected:
        return ""
    total = len(model.state_dict())
    report = [f"{total - len(missing)} of {total} tensors of {type(model).__name__} are from {str(path)!r}"]
    if missing:
        report.append(f"  missing, left as they were: {_by_block(missing)}")
    if unexpected:
        report.append(f"  unexpected, not used: {_by_block(unexpected)}")
    return "\n".join(report)


def _by_block(names: list[str]) -> str:
    """All names; names that differ only in the number of a block are merged, with their count."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{name} ({count})" if "*" in name else name for name, count in counts.items())


def _check_overlap(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    if not own.keys() & state.keys():
        raise CheckpointError(
            f"they have no name in common: the file has {min(state)!r} …, the model {min(own, default='nothing')!r} …"
        )
