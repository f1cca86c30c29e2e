"""Read a classifier of any layout: its weights, its sizes, the clips it takes, and the names of its classes."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models.classify import POSITIONS, PUBLISHED_CLIP
from ..models.config import ClipConfig
from ..models.families import VideoClassifier, classifier_of
from .checkpoint import CheckpointError, State, key_problems, load_weights, read_weights, without_encoder
from .huggingface.config import check_huggingface_config, check_preprocessor
from .huggingface.weights import from_huggingface, is_huggingface
from .internvideo2 import CLASSIFIER, fit_positions, internvideo2_state, is_internvideo2, trained_config
from .labels import class_names_beside
from .lora import merged_lora
from .official.weights import classifier_config
from .settings import PathLike, clip_beside, settings_beside, trained_clip


@dataclass(frozen=True)
class Classifier:
    """A classifier as it was read.

    Attributes:
        state: weights with the names of the model, in the dtype of the file.
        config: its sizes, and the size of its clips; settings that do not show in weights are the defaults.
        class_names: names of its classes, in the order of its logits; None if nothing beside the weights tells them.
        positions: how its position table is made; see `VideoMAEForClassification`. That of an InternVideo2 is learned,
            and the weights have it interpolated to the clips of `config`.
        trained_clip: (frames, height, width) of the clips whose positions are interpolated.
        origin: where the clip size comes from, as a phrase for the user.
    """

    state: State
    config: ClipConfig
    class_names: tuple[str, ...] | None
    positions: str
    trained_clip: tuple[int, int, int]
    origin: str

    @property
    def num_classes(self) -> int:
        """C, the rows of the head."""
        return self.state["head.weight"].shape[0]

    def with_rows(self, rows: Sequence[int], class_names: Sequence[str]) -> "Classifier":
        """The classifier with other rows of its head, in their order.

        Args:
            rows: a row in [0, C) for each class.
            class_names: names of the classes.

        Returns:
            The new classifier; all other weights are shared.
        """
        picked = torch.tensor(rows)
        head = {name: self.state[name][picked] for name in ("head.weight", "head.bias")}
        return replace(self, state=self.state | head, class_names=tuple(class_names))

    def build(self, **changes: Any) -> VideoClassifier:
        """Make the model, with its weights, in float32.

        Args:
            **changes: fields of the configuration that differ, such as `attention="flash-attn"`.

        Returns:
            The model, in training mode as every new module.

        Raises:
            ValueError: the changes do not fit together.
            CheckpointError: weights are missing, unexpected or of another shape.
        """
        config: ClipConfig = replace(self.config, **changes)  # type: ignore[type-var]
        model = classifier_of(config, self.num_classes, positions=self.positions, trained_clip=self.trained_clip)
        load_weights(model, self.state)
        return model


def read_classifier(
    path: PathLike, *, num_frames: int | None = None, image_size: int | tuple[int, int] | None = None
) -> Classifier:
    """Read a classifier of a published layout (VideoMAE V1 and V2, InternVideo2) or of transformers, whatever wraps it.

    Names lose the prefixes `_orig_mod.`, `module.`, `backbone.` and `encoder.`. Adapters of a run with `--lora-rank`
    are merged. Beside the weights, `config.json` of a
    run or of transformers tells the clip size and how positions are made; its `id2label`, or else a CLASSES_FILE, names
    the classes. Without `config.json` the clip is that of the published models, 16 frames of 224x224 pixels.

    transformers numbers the tokens of any grid, so positions are "sinusoid" there. Its `fc_norm` has an epsilon of
    1e-5 and its blocks 1e-12, where this library has 1e-6: logits differ by about 1e-5 of their size.

    Args:
        path: a file of weights, or a folder that holds one.
        num_frames: frames of a clip, if another number than the file's settings say.
        image_size: height and width, or (height, width), in pixels, likewise.

    Returns:
        The classifier.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, holds no classifier (pre-training weights, say), is of no known size,
            has a head of another number of classes than there are names, or a configuration that this library's models
            do not have.
        ValueError: the clip does not divide into patches.

    Warns:
        UserWarning: the `preprocessor_config.json` beside the weights normalises by other numbers than ImageNet's.
    """
    return as_classifier(read_weights(path), path, num_frames=num_frames, image_size=image_size)


def as_classifier(
    state: Mapping[str, Tensor],
    path: PathLike,
    *,
    num_frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Classifier:
    """`read_classifier`, of weights that `read_weights` has read from `path`."""
    settings = settings_beside(path)
    theirs = is_huggingface(state)
    try:
        state = merged_lora(state, path)
        if is_internvideo2(state):
            return _internvideo2(internvideo2_state(state), path, num_frames, image_size)
        state = classifier_state(state)
        if theirs:
            check_files_of_transformers(path, state["fc_norm.weight"].shape[0])
        clip, origin = _clip(path, num_frames, image_size)
        heads = settings.get("num_attention_heads") if theirs else None
        config = classifier_config(state, *clip, heads=heads)
        names = _class_names(path, state["head.weight"].shape[0])
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    positions = settings.get("positions")
    return Classifier(
        state,
        config,
        names,
        "sinusoid" if theirs else positions if positions in POSITIONS else POSITIONS[0],
        trained_clip(path),
        origin,
    )


def _internvideo2(
    state: State, path: PathLike, num_frames: int | None, image_size: int | tuple[int, int] | None
) -> Classifier:
    if problems := key_problems([name for name in CLASSIFIER if name not in state], []):
        raise CheckpointError(
            f"it holds an encoder, and a classifier is needed ({problems[0]}): fine-tune from it first"
        )
    trained = trained_config(state, path)
    size = _square(image_size) if image_size is not None else trained.image_size
    config = replace(trained, num_frames=num_frames or trained.num_frames, image_size=size)
    state, _ = fit_positions(state, path, config)
    names = _class_names(path, state["head.weight"].shape[0])
    clip = (trained.num_frames, *trained.image_size)
    told = clip_beside(path) != (None, None)
    origin = (
        "as given" if config != trained else "from the config.json beside the weights" if told else "from the weights"
    )
    return Classifier(state, config, names, POSITIONS[0], clip, origin)


def check_files_of_transformers(path: PathLike, width: int) -> None:
    """Make sure that the files beside weights of transformers describe a model and clips that this library has.

    Args:
        path: file of weights, or folder that holds one.
        width: D of the weights.

    Raises:
        CheckpointError: `config.json` is of another model; see `check_huggingface_config`.

    Warns:
        UserWarning: `preprocessor_config.json` normalises otherwise; see `check_preprocessor`.
    """
    check_huggingface_config(settings_beside(path), width)
    if problem := check_preprocessor(settings_beside(path, "preprocessor_config.json")):
        warnings.warn(f"{str(path)!r}: {problem}", stacklevel=4)


def classifier_state(state: Mapping[str, Tensor]) -> State:
    """The weights of a classifier with the names of `VideoMAEForClassification`.

    Args:
        state: as `read_weights` returns it, in the published layout or that of transformers.

    Returns:
        {name: tensor}.

    Raises:
        CheckpointError: `state` holds no classifier with mean pooling, or, in the layout of transformers, names are
            missing or unexpected.
    """
    if is_pretraining(state):
        raise CheckpointError(
            "it holds pre-training weights (mask_token, decoder), and a classifier is needed: fine-tune from it first"
        )
    if is_huggingface(state):
        return from_huggingface(state)
    state = without_encoder(state)
    if "head.weight" not in state or "blocks.0.norm1.weight" not in state:
        two_towers = any(name.startswith("vision_encoder.") for name in state)
        raise CheckpointError(
            f"it holds no classifier (blocks and head): its names are {min(state)!r} … {max(state)!r}"
            + ("; two towers classify by the names of classes: evaluate with task zeroshot" if two_towers else "")
        )
    if "fc_norm.weight" not in state:
        raise CheckpointError(
            "it has no fc_norm: its head reads one token, and the head of this library's classifier the mean of all"
        )
    return state


def is_pretraining(state: Mapping[str, Tensor]) -> bool:
    """Whether weights, of any layout, are those of a pre-training model.

    Args:
        state: as `read_weights` returns it.

    Returns:
        True for those with a mask token or a decoder.
    """
    return any(name == "mask_token" or name.startswith(("decoder.", "encoder_to_decoder.")) for name in state)


def _clip(
    path: PathLike, num_frames: int | None, image_size: int | tuple[int, int] | None
) -> tuple[tuple[int, tuple[int, int]], str]:
    """((frames, (height, width)), origin)."""
    if num_frames is not None and image_size is not None:
        return (num_frames, _square(image_size)), "as given"
    frames, side = clip_beside(path)
    frames, size = num_frames or frames, image_size or side
    if frames is not None and size is not None:
        return (frames, _square(size)), "from the config.json beside the weights"
    missing = "as the published models have it: nothing beside the weights tells it"
    return (frames or PUBLISHED_CLIP[0], _square(size or PUBLISHED_CLIP[1])), missing


def _square(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _class_names(path: PathLike, classes: int) -> tuple[str, ...] | None:
    names = class_names_beside(path)
    if names and len(names) != classes:
        raise CheckpointError(f"the files beside it name {len(names)} classes, the head has {classes}")
    return names or None
