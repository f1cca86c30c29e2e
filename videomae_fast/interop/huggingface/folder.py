"""A folder that `from_pretrained` reads: weights, configuration, preprocessor and model card, whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..._files import atomic_folder
from ...models.config import VideoMAEConfig
from ..checkpoint import write_safetensors
from .card import classifier_card, model_card
from .config import classifier_config, huggingface_config, preprocessor_config
from .weights import to_huggingface


def write_folder(
    state: Mapping[str, Tensor], config: VideoMAEConfig, folder: Path, source: str, settings: Mapping[str, Any]
) -> Path:
    """Write a model that transformers loads.

    Args:
        state: weights in the published layout.
        config: the model of these weights.
        folder: a folder that does not exist; made whole or not at all.
        source: name of the file that the weights came from, for the model card.
        settings: settings of the training run, for the model card, which names the masks if all of MASKS are given.

    Returns:
        The file of the weights.

    Raises:
        CheckpointError: `state` does not fit `config`.
    """
    values = {"architectures": ["VideoMAEForPreTraining"], "model_type": "videomae"} | huggingface_config(config)
    parameters = sum(tensor.numel() for tensor in state.values())
    return _write(state, config, folder, values, model_card(config, parameters, folder.name, source, settings))


def write_classifier_folder(
    state: Mapping[str, Tensor], config: VideoMAEConfig, folder: Path, source: str, class_names: Sequence[str] | None
) -> Path:
    """Write a classifier that transformers loads.

    Args:
        state: weights in the published layout.
        config: the model of these weights.
        folder: a folder that does not exist; made whole or not at all.
        source: name of the file that the weights came from, for the model card.
        class_names: a name for each class; None names them LABEL_0, LABEL_1, … as transformers does.

    Returns:
        The file of the weights.

    Raises:
        CheckpointError: `state` does not fit `config`.
        ValueError: the clips are not square.
    """
    classes = len(state["head.weight"])
    values = {"architectures": ["VideoMAEForVideoClassification"], "model_type": "videomae"}
    values |= classifier_config(config, class_names or [f"LABEL_{i}" for i in range(classes)])
    parameters = sum(tensor.numel() for tensor in state.values())
    card = classifier_card(config, parameters, folder.name, source, class_names, classes)
    return _write(state, config, folder, values, card)


def _write(
    state: Mapping[str, Tensor], config: VideoMAEConfig, folder: Path, values: Mapping[str, Any], card: str
) -> Path:
    weights = to_huggingface(state, "q_bias")  # which transformers reads up to 5.4, and renames from 5.18 on
    texts = {
        "config.json": _json(values),
        "preprocessor_config.json": _json(preprocessor_config(config)),
        "README.md": card,
    }
    with atomic_folder(folder) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        write_safetensors(weights, partial / "model.safetensors")
    return folder / "model.safetensors"


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
