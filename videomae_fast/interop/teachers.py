"""Read the teachers of an alignment from weights of any known layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._optional import require
from ..models.config import InternVideo2Config
from ..models.encoder import ChannelStats, Encoder
from ..models.frozen_teacher import freeze, last_layers
from ..models.guides import InternVideo2Guide
from ..models.internvideo2 import InternVideo2
from ..models.video_teacher import VideoMAETeacher
from .checkpoint import CheckpointError, State, load_weights, read_weights
from .classifier import is_pretraining
from .huggingface.text import LOCAL, reason
from .huggingface.vision import HuggingFaceGuide
from .internvideo2 import (
    ALIGNMENT,
    CLASSIFIER,
    internvideo2_config_of,
    internvideo2_state,
    interpolated_table,
    is_internvideo2,
    trained_config,
)
from .pretrained_encoder import pretrained_encoder
from .settings import PathLike, settings_beside

Layers = int | Sequence[int] | Callable[[int], Sequence[int]]
_Model = TypeVar("_Model", bound=nn.Module)
_STAGE2 = "vision_encoder."  # the vision model of a checkpoint of stage 2, beside text models
_STAGE2_UNUSED = ("img_pos_embed", "clip_img_pos_embed")  # its tables for images
_IMAGE_ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "clip_projector.")  # of InternVL-C's names
_KNOWN = (
    "a folder of transformers with a vision model (its config.json has a model_type), InternVL-C's "
    "internvl_c_13b_224px.pth, an InternVideo2 with its attention pool (stage 1, stage 2, or a run of align), or, as a "
    "video teacher, VideoMAE's pre-training weights (published, of transformers, or a run of pretrain)"
)


def read_video_teacher(
    path: PathLike,
    *,
    tubelets: int,
    image_size: tuple[int, int],
    layers: Layers = 4,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> VideoMAETeacher:
    """Read the encoder of VideoMAE pre-training weights as a video teacher.

    Args:
        path: a file of weights, or a folder that holds one: published, of transformers, or a checkpoint of `pretrain`.
        tubelets: T', tokens of a clip in time. The clip has as many tubelets of the weights, whatever their frames.
        image_size: (height, width) in pixels. Positions of clips of another size than the weights were trained on are
            interpolated.
        layers: how many last blocks hand over rows (4 as published), or their numbers, ascending, or a function that
            gives these from the number of blocks.
        dtype: of its matrices; see `Teacher`.
        device: where it is to run.
        **changes: further fields of the configuration, such as `attention="flash-attn"`.

    Returns:
        The teacher; its `name` is that of the file or folder.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: it cannot be read, or holds no VideoMAE pre-training weights.
        ValueError: the clip does not divide into patches, or the encoder has no such layers.
    """
    state = read_weights(path)
    if not is_pretraining(state):
        raise CheckpointError(
            f"{str(path)!r} holds no pre-training weights of VideoMAE, which a video teacher is: its names are "
            f"{min(state)!r} … {max(state)!r}. Known teachers are {_KNOWN}"
        )
    num_frames = tubelets * next(weight.shape[2] for weight in state.values() if weight.ndim == 5)  # patch embedding
    config, table, weights = pretrained_encoder(state, path, num_frames, image_size, recompute="never", **changes)
    encoder = _load(lambda: Encoder(config, table), weights, dtype, device, path)
    return VideoMAETeacher(encoder, _layers(layers, config.encoder_depth), dtype=dtype, name=_name(path))


def read_guide(
    path: PathLike,
    *,
    num_frames: int,
    image_size: tuple[int, int],
    layers: Layers = 6,
    interval: float = 1.0,
    pixel_stats: ChannelStats | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> InternVideo2Guide | HuggingFaceGuide:
    """Read a teacher that guides masks: InternVL-C's image encoder, a vision model of transformers, or InternVideo2.

    What `path` holds is told by its names: blocks with QK-norm and LayerScale are InternVL-C's (positions of one image)
    or InternVideo2's (positions of a clip; of stage 2, the names below `vision_encoder.`). Text models beside them are
    not read.

    Args:
        path: a file of weights, or a folder that holds one; a folder of transformers.
        num_frames: frames of a clip that this teacher sees. Positions of an InternVideo2 are interpolated.
        image_size: (height, width) in pixels. Learned positions of InternVL-C and InternVideo2 are interpolated; a
            model of transformers takes other sizes if it can itself.
        layers: how many blocks hand over rows, at `interval` from the last one (6 as published), or their numbers,
            ascending, or a function that gives these from the number of blocks.
        interval: blocks from one to the next where `layers` is a number; 3.34 in the published distillation of 1B.
        pixel_stats: (mean, std) that a model of transformers was trained with; by default those of the
            `preprocessor_config.json` beside it.
        dtype: of its matrices; see `Teacher`.
        device: where it is to run.
        **changes: further fields of the configuration of InternVL-C or InternVideo2, such as `attention="flash-attn"`.

    Returns:
        The teacher; its `name` is that of the file or folder.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: it cannot be read, or holds no such model; the message lists what can be read.
        ImportError: a model of transformers, and transformers is missing or too old.
        ValueError: the clip does not divide into patches, or the model has no such layers.

    References:
        models/internvl_clip_vision.py and models/internvideo2_teacher.py of OpenGVLab/InternVideo,
        InternVideo2/single_modality.
    """
    if _is_transformers(path):
        return _huggingface(path, num_frames, image_size, (layers, interval), pixel_stats, dtype, device)
    state = read_weights(path)
    if any(name.startswith(_STAGE2) for name in state):
        state = {name.removeprefix(_STAGE2): t for name, t in state.items() if name.startswith(_STAGE2)}
        state = {name: tensor for name, tensor in state.items() if name not in _STAGE2_UNUSED}
    if not is_internvideo2(state) or not any("clip_projector." in name for name in state):
        raise CheckpointError(
            f"{str(path)!r} holds no teacher that guides masks: its names are {min(state)!r} … {max(state)!r}. Known "
            f"teachers are {_KNOWN}"
        )
    try:
        state, trained = _internvideo2(internvideo2_state(state), path)
        frames = trained.num_frames if trained.num_frames == trained.tubelet_size else num_frames  # of one image
        config = replace(trained, num_frames=frames, image_size=image_size, recompute="never", **changes)
        state["pos_embed"] = interpolated_table(state["pos_embed"], 1, trained.grid, config.grid)
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    model = _load(lambda: InternVideo2(config), state, dtype, device, path)
    chosen = _layers(layers, config.encoder_depth, interval)
    return InternVideo2Guide(model, chosen, num_frames=num_frames, dtype=dtype, name=_name(path))


def _internvideo2(state: State, path: PathLike) -> tuple[State, InternVideo2Config]:
    """The weights of the encoder and its pool alone, and their configuration as they were trained."""
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        state = {name: tensor for name, tensor in state.items() if not name.startswith((*ALIGNMENT, *CLASSIFIER))}
        return state, trained_config(state, path)
    state = {name: tensor for name, tensor in state.items() if name.startswith(_IMAGE_ENCODER)}
    state["patch_embed.proj.weight"] = patch[:, :, None]  # a kernel of images is one of tubelets of one frame
    return state, internvideo2_config_of(state, num_frames=1)


def _load(
    make: Callable[[], _Model],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    path: PathLike,
) -> _Model:
    """A frozen model with weights, which were copied straight into the precision that they are kept in."""
    with torch.device("meta"):
        model = make()
    freeze(model, dtype).to_empty(device=device)
    try:
        load_weights(model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    return model


def _is_transformers(path: PathLike) -> bool:
    return Path(path).is_dir() and settings_beside(path).get("model_type") not in (None, "videomae")


def _huggingface(
    path: PathLike,
    num_frames: int,
    image_size: tuple[int, int],
    layers: tuple[Layers, float],
    stats: ChannelStats | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> HuggingFaceGuide:
    transformers = require("transformers")
    try:
        model, info = transformers.AutoModel.from_pretrained(path, output_loading_info=True, **LOCAL)
    except Exception as error:  # damaged weights raise errors of every kind
        raise CheckpointError(f"{str(path)!r} is no model that transformers reads: {reason(error)}") from error
    missing = sorted(info["missing_keys"])
    without_pooler = [name for name in missing if "pooler." not in name]
    if without_pooler:
        raise CheckpointError(f"{str(path)!r}: {type(model).__name__} lacks {', '.join(without_pooler[:8])}")
    model = getattr(model, "vision_model", model)  # of CLIP and SigLIP, beside the text model
    depth = getattr(model.config, "num_hidden_layers", None)
    if model.main_input_name != "pixel_values" or depth is None:
        raise CheckpointError(
            f"{str(path)!r}: {type(model).__name__} is no vision transformer. Known teachers are {_KNOWN}"
        )
    return HuggingFaceGuide(
        freeze(model, dtype).to(device),
        _layers(layers[0], depth, layers[1]),
        num_frames=num_frames,
        image_size=image_size,
        pixel_stats=stats or _pixel_stats(path),
        pooled=not missing,  # one that was not trained is not handed over
        dtype=dtype,
        name=_name(path),
    )


def _pixel_stats(path: PathLike) -> ChannelStats:
    settings = settings_beside(path, "preprocessor_config.json")
    found = [settings.get(name) for name in ("image_mean", "image_std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in found):
        raise CheckpointError(
            f"{str(path)!r} has no preprocessor_config.json with image_mean and image_std of three channels, and other "
            "pixels than the model was trained with give other features: save its image processor there, or give "
            "pixel_stats"
        )
    mean, std = (tuple(map(float, values)) for values in found if values)
    return mean, std


def _layers(layers: Layers, depth: int, interval: float = 1.0) -> tuple[int, ...]:
    if isinstance(layers, int):
        return last_layers(depth, layers, interval)
    return tuple(layers(depth) if callable(layers) else layers)


def _name(path: PathLike) -> str:
    return Path(path).name or str(path)
