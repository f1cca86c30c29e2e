"""What a `config.json` beside weights tells of their model: the size of its clips, and what else weights do not."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._json import parse_json, read_text
from ..models.classify import PUBLISHED_CLIP
from .checkpoint import CheckpointError

PathLike = str | os.PathLike[str]


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
    settings = settings_beside(source)
    frames = settings.get("num_frames") if num_frames is None else num_frames
    side = settings.get("image_size") if image_size is None else image_size
    if type(frames) is not int or type(side) is not int:
        raise ValueError(
            f"weights do not tell the clip size of their model, and no config.json beside {str(source)!r} does: give "
            "--num-frames and --image-size (num_frames and image_size); published pre-training weights have 16 and 224"
        )
    return ClipSize(frames, side, "from the config.json beside the weights")


def settings_beside(source: PathLike, name: str = "config.json") -> dict[str, Any]:
    """The values in a JSON file beside weights.

    Args:
        source: file of weights, or folder that holds one.
        name: of the JSON file.

    Returns:
        The values, those of sections (objects) also by their own names; {} if there is no such file, or no object in
        it.

    Raises:
        CheckpointError: the file is not JSON.
    """
    path = (Path(source) if Path(source).is_dir() else Path(source).parent) / name
    if not path.is_file():
        return {}
    try:
        settings = parse_json(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r}, beside the weights, is not JSON: {error}") from error
    if not isinstance(settings, dict):
        return {}
    sections = [value for value in settings.values() if isinstance(value, dict)]
    return {key: value for section in (*sections, settings) for key, value in section.items()}


def trained_clip(source: PathLike | None) -> tuple[int, int, int]:
    """The clips whose tokens the positions of weights number, as `VideoMAEForClassification` takes it.

    Pre-training, the published code and transformers number the tokens of their own clips, whose size the `config.json`
    beside the weights tells. A classifier whose `positions` are "interpolate" keeps those of earlier clips, its
    `trained_clip`.

    Args:
        source: file of weights, or folder that holds one; None for new weights.

    Returns:
        (frames, height, width); those of the published models, 16 frames of 224x224 pixels, if nothing tells it.

    Raises:
        CheckpointError: `config.json` is not JSON, or its `trained_clip` is no size such as 16x224x224.
    """
    settings = settings_beside(source) if source is not None else {}
    given = settings.get("trained_clip")
    if isinstance(given, str) and given and settings.get("positions") != "sinusoid":
        try:
            return parse_clip(given)
        except ValueError as error:
            raise CheckpointError(f"config.json beside {str(source)!r}: {error}") from error
    frames, size = clip_beside(source) if source is not None else (None, None)
    if settings.get("positions") == "interpolate" or frames is None or size is None:
        return PUBLISHED_CLIP
    return frames, *size


def parse_clip(text: str) -> tuple[int, int, int]:
    """Read the size of a clip, as the option `trained_clip` has it.

    Args:
        text: such as 16x224x224.

    Returns:
        (frames, height, width).

    Raises:
        ValueError: the text has another form.
    """
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8}){2}", text):
        raise ValueError(f"trained_clip must be frames, height and width, such as 16x224x224, got {text!r:.60}")
    frames, height, width = map(int, text.split("x"))
    return frames, height, width


def clip_beside(source: PathLike) -> tuple[int | None, tuple[int, int] | None]:
    """The clip size that the `config.json` beside weights tells.

    Args:
        source: file of weights, or folder that holds one.

    Returns:
        Frames, and (height, width) in pixels; None for what it does not tell.

    Raises:
        CheckpointError: `config.json` is not JSON.
    """
    settings = settings_beside(source)
    frames, size = settings.get("num_frames"), settings.get("image_size")
    found = [size, size] if type(size) is int else size
    if not (isinstance(found, list) and len(found) == 2 and all(type(side) is int for side in found)):
        found = None
    return frames if type(frames) is int else None, (found[0], found[1]) if found else None
