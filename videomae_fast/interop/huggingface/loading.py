"""Weights into a model of transformers, whatever its version calls the biases of queries and values.

transformers 5.5 to 5.16 expects them under new names without renaming what a checkpoint has, so that `from_pretrained`
leaves them zero, says so in one line of a report, and the model computes something else (transformers#48675).
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..official.weights import CheckpointError, State, load_published, load_weights
from .weights import bias_layout, is_huggingface, rename_biases, to_huggingface

_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder that save_pretrained wrote


def load_huggingface(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any], strict: bool = True
) -> tuple[list[str], list[str]]:
    """Put a checkpoint into one of transformers' VideoMAE models, which stays untouched if it does not fit.

    source: a folder that `save_pretrained` wrote, a file or a state dict; in any bias layout, or, for a
    VideoMAEForPreTraining with `use_mean_pooling=False`, in the published layout.
    strict, and what is returned: as for `load_weights`; a classifier takes a pre-trained checkpoint with strict=False.

    Warns if the installed transformers is one whose `from_pretrained` loses biases; here they are not lost.
    CheckpointError and FileNotFoundError as for `load_published` and `load_weights`.
    """
    layout = bias_layout(model.state_dict())
    state = read_weights(source)
    if layout == "qkv":
        warnings.warn(
            "transformers 5.5 to 5.16 loses the biases of queries and values in from_pretrained. They "
            "are loaded here; load no checkpoint without load_huggingface, or install transformers >= 5.18",
            stacklevel=2,
        )
    state = rename_biases(state, layout) if is_huggingface(state) else to_huggingface(state, layout)
    return load_weights(model, state, strict)


def read_weights(source: str | os.PathLike[str] | Mapping[str, Any]) -> State:
    """`load_published`, for a folder of transformers as well."""
    if isinstance(source, Mapping) or not Path(source).is_dir():
        return load_published(source)
    found = [path for name in _FILES if (path := Path(source) / name).is_file()]
    if not found:
        raise CheckpointError(f"folder {str(source)!r} has none of {', '.join(_FILES)}")
    return load_published(found[0])
