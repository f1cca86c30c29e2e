"""Convert weights between the published layout, which is also this library's, and Hugging Face's."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..data import read_classes
from ..models.config import VideoMAEConfig
from .checkpoint import read_weights, weights_file, write_safetensors
from .classifier import as_classifier, is_pretraining
from .huggingface.folder import write_classifier_folder, write_folder
from .huggingface.weights import from_huggingface, is_huggingface
from .internvideo2 import is_internvideo2
from .official.weights import config_of, save_published
from .settings import PathLike, clip_size, settings_beside

LAYOUTS = ("published", "huggingface")


def convert(
    source: PathLike,
    target: PathLike,
    to: str,
    *,
    num_frames: int | None = None,
    image_size: int | None = None,
    classes: PathLike | None = None,
) -> Path:
    """Write the weights of a pre-training model or of a classifier in another layout, whole or not at all.

    No bit of a weight changes. What only transformers holds is left out: `key.bias`, which changes no result.

    "published": `target` is a file. `.safetensors` holds the weights alone, as this library's training saves them. A
    file of any other suffix holds {"model": weights}, as the VideoMAE V2 release does. Neither holds names of classes.

    "huggingface": `target` is a folder with `model.safetensors`, `config.json`, `preprocessor_config.json` and a model
    card, `README.md`. Biases have the names that transformers reads up to 5.4 and from 5.18; for versions between, use
    `load_huggingface`. transformers fixes the epsilon of its decoder's LayerNorm, and that of a classifier's `fc_norm`,
    at 1e-5; the published one is 1e-6.

    Args:
        source: a file of weights, or a folder that holds one, or the shards of FSDP2, which become one file; any
            published size, also of VideoMAE V1, at any depth.
        target: a file or folder that does not exist.
        to: layout of the target, one of LAYOUTS.
        num_frames: frames of the model's clips, for "huggingface" only; by default see `clip_size`.
        image_size: height and width of the model's clips in pixels, for "huggingface" only; by default see `clip_size`.
        classes: file of class names (see `read_classes`) for a classifier's `config.json`, for "huggingface" only;
            by default the names beside the weights (see `read_classifier`), else LABEL_0, LABEL_1, …

    Returns:
        The file that holds the weights.

    Raises:
        ValueError: `to` is unknown, or is the layout of `source`; `source` is an InternVideo2; the clip size is unknown
            or not possible; or `classes` names another number of classes than the head has, or is given for no
            classifier.
        FileNotFoundError: `source` does not exist.
        FileExistsError: `target` exists.
        CheckpointError: `source` cannot be read, or has no published size.

    Warns:
        UserWarning: see `read_classifier`; or transformers will compute other positions than the classifier has.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to is {to!r}; allowed: {', '.join(map(repr, LAYOUTS))}")
    if to == "published" and (num_frames, image_size, classes) != (None, None, None):
        raise ValueError(
            "num_frames, image_size and classes are for to='huggingface': the published layout does not hold them"
        )
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"target {str(target)!r} exists already")
    state = read_weights(source)
    if to == "published" and weights_file(Path(source)).is_dir() and not is_huggingface(state):
        _write_published(state, target)  # joined, whatever the model
        return target
    if is_internvideo2(state):
        raise ValueError(
            f"{str(source)!r} is an InternVideo2, which transformers does not have: no other layout is known"
        )
    if is_huggingface(state) == (to == "huggingface"):
        raise ValueError(f"{str(source)!r} is in the {to} layout already")
    if to == "huggingface":
        return _to_huggingface(state, source, target, num_frames, image_size, classes)
    if "classifier.weight" in state and not is_pretraining(state):
        state = as_classifier(state, source).state  # which checks the files of transformers beside it
    else:
        state = from_huggingface(state)
    _write_published(state, target)
    return target


def _write_published(state: Mapping[str, Tensor], target: Path) -> None:
    (write_safetensors if target.suffix == ".safetensors" else save_published)(state, target)


def _to_huggingface(
    state: Mapping[str, Tensor],
    source: PathLike,
    target: Path,
    num_frames: int | None,
    image_size: int | None,
    classes: PathLike | None,
) -> Path:
    clip = clip_size(source, num_frames, image_size)
    if is_pretraining(state) or not {"head.weight", "encoder.head.weight"} & state.keys():
        if classes is not None:
            raise ValueError(f"classes is {str(classes)!r}, and {str(source)!r} is no classifier")
        config = config_of(state, clip.num_frames, (clip.image_size, clip.image_size))
        return write_folder(state, config, target, _name(source), settings_beside(source))
    found = as_classifier(state, source, num_frames=clip.num_frames, image_size=clip.image_size)
    assert isinstance(found.config, VideoMAEConfig)
    names = found.class_names if classes is None else read_classes(classes)
    if names is not None and len(names) != found.num_classes:
        raise ValueError(
            f"classes {str(classes)!r} names {len(names)} classes, the head of {str(source)!r} has {found.num_classes}"
        )
    if found.positions == "interpolate" and found.trained_clip != (clip.num_frames, *found.config.image_size):
        warnings.warn(
            f"the classifier's positions are those of clips of {found.trained_clip} (frames, height, width), "
            f"interpolated to {(clip.num_frames, *found.config.image_size)}; transformers does not interpolate, so the "
            "converted model computes something else",
            stacklevel=3,
        )
    return write_classifier_folder(found.state, found.config, target, _name(source), names)


def _name(source: PathLike) -> str:
    """The file of weights, with its folder if that was given."""
    path = Path(source).resolve()
    file = weights_file(path) if path.is_dir() else path
    return path.name if file == path else f"{path.name}/{file.name}"
