"""Load weights into a model of transformers of any version, whose names for the biases of q, k and v differ.

transformers 5.5 to 5.16 expects new names and does not rename the biases of a checkpoint. `from_pretrained` then leaves
them zero, reports it in one line, and the model computes something else (transformers#48675).
"""

import warnings

from torch import nn

from ..checkpoint import Source, load_weights, read_weights
from .weights import bias_layout, is_huggingface, rename_biases, to_huggingface


def load_huggingface(model: nn.Module, source: Source, strict: bool = True) -> tuple[list[str], list[str]]:
    """Load a checkpoint into one of transformers' VideoMAE models, which stays untouched if it does not fit.

    Warns if the installed transformers is one whose `from_pretrained` loses biases; this function does not lose them.

    Args:
        model: a VideoMAEForPreTraining, VideoMAEModel or VideoMAEForVideoClassification.
        source: a folder that `save_pretrained` wrote, a file or a state dict; in any bias layout, or, for a
            VideoMAEForPreTraining with `use_mean_pooling=False` and a VideoMAEForVideoClassification with
            `use_mean_pooling=True`, in the published layout.
        strict: as for `load_weights`; a classifier takes a pre-trained checkpoint with strict=False.

    Returns:
        (missing, unexpected) names, as `load_weights`.

    Raises:
        FileNotFoundError: `source` does not exist.
        CheckpointError: `source` cannot be read, or does not fit.

    References:
        https://github.com/huggingface/transformers/issues/48675
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
