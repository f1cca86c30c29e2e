"""Start an audio tower from BEATs, or from InternVideo2's second stage, with a report."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.audio_tower import AudioTower, BeatsConfig
from .checkpoint import CheckpointError, State, read_checkpoint, weights_file
from .settings import PathLike, settings_beside
from .video_tower import Part, load_part, names_below

AUDIO_FILE = "audio.json"  # beside weights of a run: the configuration of its audio tower
AUDIO = "audio_encoder."  # what the names of an audio tower begin with in a dual encoder
_TABLE = "self_attn.relative_attention_bias.weight"
_SIZES: dict[str, tuple[str, Any]] = {  # of BeatsConfig: its published name, and the published default
    "dim": ("encoder_embed_dim", 768),
    "depth": ("encoder_layers", 12),
    "heads": ("encoder_attention_heads", 12),
    "hidden": ("encoder_ffn_embed_dim", 3072),
    "patch_dim": ("embed_dim", 512),
    "patch_size": ("input_patch_size", -1),
    "conv_kernel": ("conv_pos", 128),
    "conv_groups": ("conv_pos_groups", 16),
    "buckets": ("num_buckets", 320),
    "max_distance": ("max_distance", 1280),
    "deep_norm": ("deep_norm", False),
}
_SAME: dict[str, tuple[Any, Any]] = {  # what all published weights have, and the published default
    "layer_norm_first": (False, False),
    "activation_fn": ("gelu", "gelu"),
    "relative_position_embedding": (True, False),
    "gru_rel_pos": (True, False),
    "conv_bias": (False, False),
}


def beats_config_of(path: PathLike) -> BeatsConfig:
    """The configuration of a BEATs, from its file.

    Args:
        path: a published file, which holds {"cfg": settings, "model": weights}.

    Returns:
        The configuration, for ten seconds of sound in 64 mel bands.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, holds no settings, or those of another model.
    """
    file = weights_file(Path(path))
    facts = file.stat()
    return _beats_config(file, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=8)  # predictors of memory ask for each figure, and the settings lie among the weights
def _beats_config(file: Path, modified: int, size: int) -> BeatsConfig:
    checkpoint, name = read_checkpoint(file), repr(str(file))
    settings = checkpoint.get("cfg") if isinstance(checkpoint, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(checkpoint.get("model"), Mapping):
        raise CheckpointError(f"{name} is no file of BEATs: it must hold settings, 'cfg', and weights, 'model'")
    for key, (value, default) in _SAME.items():
        if (given := settings.get(key, default)) != value:
            raise CheckpointError(f"{name}: cfg has {key} {given!r}, and only {value!r} is known here")
    try:
        return BeatsConfig(**{key: settings.get(*theirs) for key, theirs in _SIZES.items()})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{name}: cfg cannot be used: {error}") from error


def audio_config_beside(path: PathLike) -> BeatsConfig | None:
    """The configuration of the audio tower of a run, which training with sound writes into every checkpoint.

    Args:
        path: file of weights, or folder that holds one.

    Returns:
        The configuration; None without an AUDIO_FILE there.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not (settings := settings_beside(path, AUDIO_FILE)):
        return None
    try:
        return BeatsConfig(**settings)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{AUDIO_FILE} beside {str(path)!r} is damaged: {error}") from error


def init_audio_tower(tower: AudioTower, path: PathLike, strict: bool = True) -> str:
    """Initialise an audio tower; it stays untouched if the weights do not fit.

    Args:
        tower: its tensors keep their dtype and device.
        path: a published file of BEATs, InternVideo2's second stage with sound, or a run.
        strict: whether the file must hold every tensor, and no other but a predictor of classes.

    Returns:
        A report of tensors that are not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or holds no BEATs of this size; the message lists what is missing and
            what is not known.
    """
    return load_part(tower, path, lambda state: audio_part(names_below(state, AUDIO)), strict)


def audio_part(state: State) -> Part:
    """The weights of an audio tower, as `init_audio_tower` takes them.

    Args:
        state: weights by the names of BEATs. Later layers may have copies of the first layer's table.

    Returns:
        The weights, by the names of the tower.

    Raises:
        CheckpointError: it is no BEATs, or a copy differs.
    """
    first = f"encoder.layers.0.{_TABLE}"
    if first not in state:
        raise CheckpointError(f"it holds no BEATs: its names are {min(state)!r} … {max(state)!r}")
    copies = [name for name in state if name.endswith(_TABLE) and name != first]
    if differing := [name for name in copies if not torch.equal(state[name], state[first])]:
        raise CheckpointError(f"{differing[0]} is not the table of the first layer, which all layers share")
    unused = [name for name in state if name.startswith("predictor.")]
    return Part({name: tensor for name, tensor in state.items() if name not in (*copies, *unused)}, unused=unused)
