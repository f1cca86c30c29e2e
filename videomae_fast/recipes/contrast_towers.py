"""The towers of contrastive pre-training, made from options."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .._optional import require
from .._text import printable
from ..data.captioned import CaptionTokenizer
from ..interop.huggingface.text import read_text_tower, read_tokenizer
from ..models import InternVideo2Config
from ..models.dual_encoder import VideoTextModel
from ..models.internvideo2_tower import InternVideo2Tower
from ..models.text_tower import TextTower
from ..models.video_tower import VideoTower
from ..models.video_transformer import VideoTransformer
from .contrast_options import ContrastData, LossOptions, TextTowerOptions, VideoTowerOptions

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def build_video_tower(options: VideoTowerOptions, data: ContrastData) -> VideoTower:
    """Make the video tower.

    Args:
        options: its section.
        data: gives the size of the clips.

    Returns:
        The tower, with new weights, all trained.

    Raises:
        ValueError: sizes do not fit together.
    """
    config = options.tower_config(data)
    pool: dict[str, Any] = {} if options.pool == "auto" else {"pool": options.pool}
    return (
        InternVideo2Tower(config, **pool)
        if isinstance(config, InternVideo2Config)
        else VideoTransformer(config, **pool)
    )


def build_text_tower(options: TextTowerOptions, say: Callable[[str], None]) -> tuple[TextTower, CaptionTokenizer]:
    """Read a text encoder of transformers, and its tokenizer. A folder without weights gives a random encoder.

    Args:
        options: its section.
        say: prints a line if the weights are random.

    Returns:
        The tower in float32, all of it trained, and its tokenizer. No code of the folder runs.

    Raises:
        ValueError: `text_model` is empty or no folder, transformers cannot read it, it is no text encoder, its
            tokenizer is of another model, or `max_tokens` are more than it has positions for.
        ImportError: transformers is missing.
    """
    folder = options.text_model
    if not folder:
        raise ValueError("text_model is empty: name a folder of a text encoder of transformers, with its tokenizer")
    if not os.path.isdir(folder):
        raise ValueError(f"text_model must be a folder of a text encoder of transformers, got {printable(folder)}")
    if any((Path(folder) / name).is_file() for name in _WEIGHTS):
        tower = read_text_tower(folder, options.text_pool)
    else:
        tower = TextTower(_random_encoder(folder), options.text_pool)
        say(f"{printable(folder)} has no weights: the text tower is random, of the size in its config.json")
    tokenizer = CaptionTokenizer(read_tokenizer(folder, tower.vocab_size), options.max_tokens)
    if options.max_tokens > tower.max_length:
        raise ValueError(
            f"max_tokens must be at most {tower.max_length}, the positions of the text model, got {options.max_tokens}"
        )
    tower.train()
    return tower, tokenizer


def _random_encoder(folder: str) -> nn.Module:
    transformers = require("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"text_model {printable(folder)} cannot be read: {printable(str(error).partition(chr(10))[0])}"
        ) from error
    encoder: nn.Module = getattr(model, "text_model", model)
    return encoder


def build_towers(
    model: VideoTowerOptions,
    text: TextTowerOptions,
    loss: LossOptions,
    data: ContrastData,
    say: Callable[[str], None],
) -> tuple[VideoTextModel, CaptionTokenizer]:
    """Make the dual encoder, and the tokenizer of its text tower.

    Args:
        model: section of the video tower.
        text: section of the text tower.
        loss: section of the loss.
        data: gives the size of the clips.
        say: prints a line.

    Returns:
        The model, of which all is trained, and the tokenizer.

    Raises:
        ValueError: options do not fit together, or the text model and its tokenizer do not.
        ImportError: transformers is missing.
    """
    encoder, tokenizer = build_text_tower(text, say)
    tower = build_video_tower(model, data)
    return VideoTextModel(tower, encoder, model.embed_dim, loss.of_temperature), tokenizer


def choose_trained(model: VideoTextModel, train: str, freeze_text: bool) -> None:
    """Freeze what is not trained.

    Args:
        model: a new model, with its weights.
        train: "none", or as `ClassifierParts.freeze` takes it.
        freeze_text: whether the text tower is frozen.

    Raises:
        ValueError: `train` is none of these.
    """
    if train == "none":
        model.freeze_video()
    else:
        try:
            model.vision_encoder.freeze(train)
        except ValueError as error:
            raise ValueError(f"{error}; or 'none'") from error
    if freeze_text:
        model.freeze_text()
