"""The encoder of pre-training weights of VideoMAE, in any layout: its configuration, its positions and its weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..models.config import VideoMAEConfig
from ..models.positions import interpolated_sinusoid
from .checkpoint import CheckpointError, State
from .huggingface.weights import from_huggingface, is_huggingface
from .official.weights import config_of
from .settings import PathLike, clip_beside, trained_clip

_PREFIX = "encoder."


class PretrainedEncoder(NamedTuple):
    """What an `Encoder` is built from, and the weights to load into it."""

    config: VideoMAEConfig
    table: Callable[[], Tensor]
    state: State


def pretrained_encoder(
    state: Mapping[str, Tensor],
    path: PathLike,
    num_frames: int | None = None,
    image_size: tuple[int, int] | None = None,
    **changes: Any,
) -> PretrainedEncoder:
    """The encoder of pre-training weights.

    Args:
        state: as `read_weights` has read it from `path`, of the published layout or that of transformers.
        path: where they are from; the `config.json` beside them tells the clips that they were trained on.
        num_frames: frames of a clip; by default those of the `config.json`, or else 16.
        image_size: (height, width) in pixels; by default likewise, or else 224. Positions are interpolated.
        **changes: further fields of the configuration that differ.

    Returns:
        The configuration, the table of positions and the encoder's weights.

    Raises:
        CheckpointError: they are no pre-training weights of a known size; or `config.json` is not JSON.
        ValueError: the clip does not divide into patches.
    """
    state = from_huggingface(state, strict=False) if is_huggingface(state) else state
    trained, (frames, size) = trained_clip(path), clip_beside(path)
    try:
        config = config_of(state, num_frames or frames or trained[0], image_size or size or trained[1:])
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    first, rows, columns = (side // patch for side, patch in zip(trained, config.patch, strict=True))
    table = partial(interpolated_sinusoid, (first, rows, columns), config.grid, config.encoder_dim)
    weights = {name.removeprefix(_PREFIX): t for name, t in state.items() if name.startswith(_PREFIX)}
    return PretrainedEncoder(replace(config, **changes), table, weights)
