"""Convert weights between the published layout, which is also this library's, and Hugging Face's."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError, read_weights, weights_file, write_safetensors
from .huggingface.folder import write_folder
from .huggingface.weights import from_huggingface, is_huggingface
from .official.weights import config_of, save_published

LAYOUTS = ("published", "huggingface")

PathLike = str | os.PathLike[str]


def convert(
    source: PathLike, target: PathLike, to: str, *, num_frames: int | None = None, image_size: int | None = None
) -> Path:
    """Write weights in another layout, bit for bit, whole or not at all.

    "published": `target` is a file. `.safetensors` holds the weights alone, as this library's training saves them. A
    file of any other suffix holds {"model": weights}, as the VideoMAE V2 release does.

    "huggingface": `target` is a folder with `model.safetensors`, `config.json`, `preprocessor_config.json` and a model
    card, `README.md`. Biases have the names that transformers reads up to 5.4 and from 5.18; for versions between, use
    `load_huggingface`. transformers fixes the epsilon of its decoder's LayerNorm at 1e-5; the published one is 1e-6.

    Args:
        source: a file of weights, or a folder that holds one; any published size, also of VideoMAE V1, at any depth.
        target: a file or folder that does not exist.
        to: layout of the target, one of LAYOUTS.
        num_frames: frames of the model's clips, for "huggingface" only; by default see `clip_size`.
        image_size: height and width of the model's clips in pixels, for "huggingface" only; by default see `clip_size`.

    Returns:
        The file that holds the weights.

    Raises:
        ValueError: `to` is unknown, or is the layout of `source`, or the clip size is unknown or not possible.
        FileNotFoundError: `source` does not exist.
        FileExistsError: `target` exists.
        CheckpointError: `source` cannot be read, or has no published size.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to is {to!r}; allowed: {', '.join(map(repr, LAYOUTS))}")
    if to == "published" and (num_frames, image_size) != (None, None):
        raise ValueError("num_frames and image_size are for to='huggingface': the published layout does not hold them")
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"target {str(target)!r} exists already")
    state = read_weights(source)
    if is_huggingface(state) == (to == "huggingface"):
        raise ValueError(f"{str(source)!r} is in the {to} layout already")
    if to == "huggingface":
        clip = clip_size(source, num_frames, image_size)
        config = config_of(state, clip.num_frames, clip.image_size)
        return write_folder(state, config, target, _name(source), _settings_beside(source))
    write = write_safetensors if target.suffix == ".safetensors" else save_published
    write(from_huggingface(state), target)
    return target


@dataclass(frozen=True)
class ClipSize:
    """The size of the clips that a model takes, and its origin.

    Attributes:
        num_frames: frames of a clip.
        image_size: height and width in pixels.
        origin: where the numbers come from, as a phrase for the user.
    """

    num_frames: int
    image_size: int
    origin: str


def clip_size(source: PathLike, num_frames: int | None = None, image_size: int | None = None) -> ClipSize:
    """The clip size of published weights. The weights do not tell it, because their position tables are fixed.

    Args:
        source: file of weights, or folder that holds one. A `config.json` in the same folder, which training writes
            into every checkpoint, gives the numbers that the arguments leave out.
        num_frames: frames of a clip, if known.
        image_size: height and width in pixels, if known.

    Returns:
        The size.

    Raises:
        ValueError: nothing tells the size.
        CheckpointError: `config.json` is not JSON.
    """
    if num_frames is not None and image_size is not None:
        return ClipSize(num_frames, image_size, "as given")
    settings = _settings_beside(source)
    frames = settings.get("num_frames") if num_frames is None else num_frames
    side = settings.get("image_size") if image_size is None else image_size
    if type(frames) is not int or type(side) is not int:
        raise ValueError(
            f"weights do not tell the clip size of their model, and no config.json beside {str(source)!r} does: give "
            "--num-frames and --image-size (num_frames and image_size); published pre-training weights have 16 and 224"
        )
    return ClipSize(frames, side, "from the config.json beside the weights")


def _settings_beside(source: PathLike) -> dict[str, Any]:
    """The values in the `config.json` beside `source`, its sections flattened; {} if there is no such file."""
    path = Path(source) if Path(source).is_dir() else Path(source).parent
    path /= "config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r}, beside the weights, is not JSON: {error}") from error
    if not isinstance(settings, dict):
        return {}
    sections = [value for value in settings.values() if isinstance(value, dict)]
    return {key: value for section in (*sections, settings) for key, value in section.items()}


def _name(source: PathLike) -> str:
    """The file of weights, with its folder if that was given."""
    path = Path(source).resolve()
    return f"{path.name}/{weights_file(path).name}" if path.is_dir() else path.name
