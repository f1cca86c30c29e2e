"""The layout of published checkpoints (https://github.com/OpenGVLab/VideoMAEv2), which is also this library's.

A published `checkpoint-{epoch}.pth` is a dict whose `model` holds the weights, next to `optimizer`, `epoch`, `scaler`
and `args`; DeepSpeed puts the weights under `module`. The models here have the published names, so that reading
a checkpoint only unwraps it and renames nothing.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...models.config import CONFIGS, VideoMAEConfig
from ..checkpoint import CheckpointError, Source, State, read_weights, unwrap, write_torch

# Widths tell the number of heads. VideoMAE V1 has other depths and, for ViT-H, a wider decoder.
_V1_HUGE = replace(CONFIGS["huge"], decoder_dim=640)


def load_published(source: Source) -> State:
    """Read the weights of a published checkpoint to the CPU, without wrappers and prefixes.

    Wrappers are the keys `model` and `module`; prefixes are `_orig_mod.`, `module.` and `backbone.`. Files are read
    with `weights_only=True`, so a file cannot run code of its author.

    Args:
        source: a file that `torch.save` wrote, a `.safetensors` file, or a loaded checkpoint (a dict), whose tensors
            are returned as they are.

    Returns:
        {name: tensor}, as `load_weights` takes it.

    Raises:
        FileNotFoundError: `source` is not a file.
        CheckpointError: the file is damaged, holds arbitrary Python objects, or has no dict of tensors inside.

    References:
        utils.py (`save_model`) of OpenGVLab/VideoMAEv2@29eab1e.
    """
    if not isinstance(source, Mapping) and Path(source).is_dir():
        raise FileNotFoundError(f"checkpoint {str(source)!r} is a directory, not a file")
    return read_weights(source)


def save_published(
    model_or_state: nn.Module | Mapping[str, Any], path: str | os.PathLike[str], epoch: int | None = None
) -> None:
    """Write a checkpoint as the published code does, {"model": weights}, whole or not at all.

    Args:
        model_or_state: a model, also one wrapped for training (DDP, torch.compile), or its state dict. The names are
            written without wrappers' prefixes.
        path: the file to make or replace; its folder exists.
        epoch: written beside the weights as "epoch" if given; the published code counts from 0.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: `path` ends in `.safetensors`, which is another format.
        CheckpointError: `model_or_state` holds anything but tensors.

    References:
        utils.py (`save_model`) of OpenGVLab/VideoMAEv2@29eab1e.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise ValueError(
            f"path is {str(path)!r}; the published layout is a torch.save file, such as 'checkpoint-0.pth'"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path is {str(path)!r}; its directory does not exist")
    given = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    # clone: torch.save writes the whole storage of a tensor that is a view of a larger one.
    state = {name: t.detach().cpu().clone() for name, t in unwrap(given, "model_or_state").items()}
    write_torch({"model": state} if epoch is None else {"model": state, "epoch": epoch}, path)


def config_of(state: Mapping[str, Tensor], num_frames: int, image_size: tuple[int, int]) -> VideoMAEConfig:
    """Find the configuration of published pre-training weights.

    Args:
        state: weights of one of the published sizes, also of VideoMAE V1, at any depth.
        num_frames: frames of a clip; the weights do not tell them, because the position tables are fixed.
        image_size: (height, width) of a clip in pixels, which they do not tell either.

    Returns:
        The configuration; settings that do not show in weights (drop path, attention, …) are the defaults.

    Raises:
        CheckpointError: `state` has no pre-training weights, or its widths are of no published size.
        ValueError: the clip does not divide into patches.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        width, channels, tubelet, patch, _ = shapes["encoder.patch_embed.proj.weight"]
        decoder_width = shapes["mask_token"][-1]
        hidden = (shapes["encoder.blocks.0.mlp.fc1.weight"][0], shapes["decoder.blocks.0.mlp.fc1.weight"][0])
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"not a published pre-training checkpoint: {error} is missing or misshapen") from error
    known = (*CONFIGS.values(), _V1_HUGE)
    heads = {config.encoder_dim: config.encoder_heads for config in known}
    decoder_heads = {config.decoder_dim: config.decoder_heads for config in known}
    if width not in heads or decoder_width not in decoder_heads:
        raise CheckpointError(
            f"encoder and decoder are {width} and {decoder_width} wide, which tells no number of attention heads: "
            f"known are {', '.join(map(str, heads))} and {', '.join(map(str, decoder_heads))}"
        )
    ratio = hidden[0] / width
    if channels != 3 or hidden[1] != int(decoder_width * ratio):
        raise CheckpointError(
            f"the model takes {channels} channels, and its MLPs are {hidden[0]} and {hidden[1]} wide in encoder and "
            f"decoder: published models take 3, and have one ratio ({int(decoder_width * ratio)} in this decoder)"
        )
    return VideoMAEConfig(
        encoder_dim=width,
        encoder_depth=_depth(shapes, "encoder.blocks."),
        encoder_heads=heads[width],
        decoder_dim=decoder_width,
        decoder_heads=decoder_heads[decoder_width],
        decoder_depth=_depth(shapes, "decoder.blocks."),
        mlp_ratio=ratio,
        patch_size=patch,
        tubelet_size=tubelet,
        num_frames=num_frames,
        image_size=image_size,
    )


def classifier_config(
    state: Mapping[str, Tensor], num_frames: int, image_size: tuple[int, int], heads: int | None = None
) -> VideoMAEConfig:
    """Find the configuration of published classification weights.

    Args:
        state: weights of a classifier, at any depth.
        num_frames: frames of a clip.
        image_size: (height, width) of a clip in pixels.
        heads: attention heads, if known; None: as the published size of this width has.

    Returns:
        The configuration; settings that do not show in weights are the defaults, and so is the decoder, which a
        classifier does not have.

    Raises:
        CheckpointError: `state` has no classification weights, or its width is of no published size and `heads` is
            None.
        ValueError: the clip does not divide into patches.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        width, channels, tubelet, patch, _ = shapes["patch_embed.proj.weight"]
        hidden, _ = shapes["blocks.0.mlp.fc1.weight"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"not a published classification checkpoint: {error} is missing or misshapen") from error
    known = {config.encoder_dim: config for config in CONFIGS.values()}
    if width not in known and heads is None:
        raise CheckpointError(
            f"the model is {width} wide, which tells no number of attention heads: known are "
            f"{', '.join(map(str, known))}"
        )
    if channels != 3:
        raise CheckpointError(f"the model takes {channels} channels: published models take 3")
    like, ratio = known.get(width), hidden / width
    return VideoMAEConfig(
        encoder_dim=width,
        encoder_depth=_depth(shapes, "blocks."),
        encoder_heads=heads or known[width].encoder_heads,
        decoder_dim=like.decoder_dim if like else width,
        decoder_heads=like.decoder_heads if like else 1,
        mlp_ratio=ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf),
        patch_size=patch,
        tubelet_size=tubelet,
        num_frames=num_frames,
        image_size=image_size,
    )


def _depth(names: Mapping[str, Any], stack: str) -> int:
    return len({name.removeprefix(stack).partition(".")[0] for name in names if name.startswith(stack)})
