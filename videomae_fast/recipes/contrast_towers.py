"""The towers of contrastive pre-training, made from options."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from .._optional import require
from .._text import printable, printable_lines
from ..data.captioned import CaptionTokenizer
from ..engine.checkpoint import list_checkpoints
from ..interop.audio_tower import audio_config_beside, beats_config_of, init_audio_tower
from ..interop.huggingface.text import new_text_model, read_text_tower, read_tokenizer, split_bert_config
from ..interop.settings import settings_beside
from ..interop.video_text import init_split_bert
from ..models import AudioVideoTextModel, InternVideo2Config, VideoMAEConfig
from ..models.audio_tower import AudioTower, BeatsConfig
from ..models.bert import SplitBert, SplitBertConfig
from ..models.dual_encoder import VideoTextModel
from ..models.fusion import VideoTextFusionModel
from ..models.internvideo2_tower import InternVideo2Tower
from ..models.text_tower import TextTower
from ..models.video_tower import VideoTower
from ..models.video_transformer import VideoTransformer
from .contrast_config import ContrastConfig
from .contrast_options import AudioTowerOptions, ContrastData, TextTowerOptions, TowerOptions

_RANDOM = "{} has no weights: the text tower is random, of the size in its config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def build_video_tower(options: TowerOptions, data: ContrastData) -> VideoTower:
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
    if isinstance(config, InternVideo2Config):
        return InternVideo2Tower(config, **pool)
    assert isinstance(config, VideoMAEConfig)
    return VideoTransformer(config, **pool)


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
    _check_folder(folder)
    if _has_weights(folder):
        tower = read_text_tower(folder, options.text_pool)
    else:
        tower = TextTower(_random_encoder(folder), options.text_pool)
        say(_RANDOM.format(printable(folder)))
    tokenizer = _caption_tokenizer(read_tokenizer(folder, tower.vocab_size), options.max_tokens, tower.max_length)
    tower.train()
    return tower, tokenizer


def _check_folder(folder: str) -> None:
    if not folder:
        raise ValueError("text_model is empty: name a folder of a text encoder of transformers, with its tokenizer")
    if not os.path.isdir(folder):
        raise ValueError(f"text_model must be a folder of a text encoder of transformers, got {printable(folder)}")


def _has_weights(folder: str) -> bool:
    return any((Path(folder) / name).is_file() for name in _WEIGHTS)


def _caption_tokenizer(tokenizer: Any, max_tokens: int, positions: int) -> CaptionTokenizer:
    if max_tokens > positions:
        raise ValueError(f"max_tokens must be at most {positions}, the positions of the text model, got {max_tokens}")
    return CaptionTokenizer(tokenizer, max_tokens)


def _random_encoder(folder: str) -> nn.Module:
    """Of the size that the folder's config.json tells; "" is BERT-base, to predict memory without a folder."""
    if folder:
        return new_text_model(folder)
    transformers = require("transformers")
    bert: nn.Module = transformers.BertModel(transformers.BertConfig())
    return bert


def build_split_bert(
    options: TextTowerOptions, fusion_layers: int, source_dim: int, say: Callable[[str], None]
) -> tuple[SplitBert, CaptionTokenizer]:
    """Read a BERT whose last layers read a video too, and its tokenizer. Their cross-attention is new.

    Args:
        options: section of the text tower.
        fusion_layers: number of these layers.
        source_dim: width of the video's tokens.
        say: prints a line about what is new.

    Returns:
        The BERT and its tokenizer.

    Raises:
        ValueError: as `build_text_tower`; or the folder is of no BERT, or has too few layers.
        ImportError: transformers is missing.
    """
    folder = options.text_model
    config, captions = _split_config(options, fusion_layers)
    bert = SplitBert(config, source_dim)
    if not _has_weights(folder):
        say(_RANDOM.format(printable(folder)))
    elif note := init_split_bert(bert, folder):
        say(printable_lines(note))
    return bert, captions


def _split_config(options: TextTowerOptions, fusion_layers: int) -> tuple[SplitBertConfig, CaptionTokenizer]:
    folder = options.text_model
    _check_folder(folder)
    settings = settings_beside(folder)
    if settings.get("model_type") != "bert":
        raise ValueError(
            f"fusion_layers {fusion_layers} needs a BERT in text_model, whose config.json has model_type 'bert'; "
            f"{printable(folder)} has {settings.get('model_type')!r}"
        )
    depth = settings.get("num_hidden_layers")
    if not isinstance(depth, int) or fusion_layers >= depth:
        raise ValueError(
            f"fusion_layers must leave a text layer of the {depth} layers in {printable(folder)}, got {fusion_layers}"
        )
    tokenizer = read_tokenizer(folder, int(settings.get("vocab_size", 0)))
    config = split_bert_config(folder, depth - fusion_layers, tokenizer, pool=options.text_pool)
    return config, _caption_tokenizer(tokenizer, options.max_tokens, config.max_length)


def build_audio_tower(options: AudioTowerOptions, say: Callable[[str], None]) -> AudioTower:
    """Read an audio tower.

    Args:
        options: its section.
        say: prints a line about what is not used.

    Returns:
        The tower, with its weights.

    Raises:
        ValueError: `audio_model` is no file, or no BEATs.
    """
    tower = AudioTower(_beats_config(options))
    if note := init_audio_tower(tower, options.audio_model):
        say(printable_lines(note))
    return tower


def audio_config(config: ContrastConfig) -> BeatsConfig | None:
    """The configuration of a run's audio tower: of the checkpoint that it continues from, else of the file of BEATs.

    Args:
        config: of the run.

    Returns:
        The configuration; None for a run without sound.

    Raises:
        ValueError: `audio_model` is no file, or no BEATs.
    """
    if not config.audio.audio_model:
        return None
    return saved_audio_config(config) or _beats_config(config.audio)


def saved_audio_config(config: ContrastConfig) -> BeatsConfig | None:
    """The configuration in the checkpoint that a run with sound continues from; None if there is none.

    Args:
        config: of the run.

    Returns:
        The configuration, for `build_towers`: the checkpoint has the weights.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    saved = list_checkpoints(Path(config.run.output)) if config.run.resume and config.audio.audio_model else []
    return audio_config_beside(saved[-1]) if saved else None


def _beats_config(options: AudioTowerOptions) -> BeatsConfig:
    if not os.path.isfile(options.audio_model):
        raise ValueError(f"audio_model must be a file of BEATs, got {printable(options.audio_model)}")
    return beats_config_of(options.audio_model)


def build_towers(
    config: ContrastConfig, say: Callable[[str], None], audio: BeatsConfig | None = None
) -> tuple[VideoTextModel, CaptionTokenizer]:
    """Make the dual encoder, and the tokenizer of its text tower.

    Args:
        config: of the run; sections of data, run and optimizer do not matter, but for the size of the clips.
        say: prints a line.
        audio: of the audio tower of a run, which then has new weights, and `audio_model` is not read.

    Returns:
        The model, of which all is trained, and the tokenizer.

    Raises:
        ValueError: options do not fit together, or the text model and its tokenizer do not, or a folder or file cannot
            be read.
        ImportError: transformers is missing.
    """
    tower = build_video_tower(config.model, config.data)
    embed_dim, temperature, layers = config.model.embed_dim, config.loss.of_temperature, config.fusion.fusion_layers
    if not layers:
        encoder, tokenizer = build_text_tower(config.text, say)
        return VideoTextModel(tower, encoder, embed_dim, temperature), tokenizer
    sizes = embed_dim, temperature, config.fusion.word_ratio
    if not config.audio.audio_model:
        bert, tokenizer = build_split_bert(config.text, layers, tower.token_dim, say)
        return VideoTextFusionModel(tower, bert, *sizes), tokenizer
    sound = AudioTower(audio) if audio else build_audio_tower(config.audio, say)
    bert, tokenizer = build_split_bert(config.text, layers, sound.dim, say)  # tokens of both are projected to 768
    return AudioVideoTextModel(tower, bert, sound, *sizes), tokenizer


def build_sizes(config: ContrastConfig) -> VideoTextModel:
    """The model of a run without its weights, to predict memory: no weights are read, and no captions.

    Args:
        config: of the run. Without `text_model` and without fusion, the text tower is BERT-base.

    Returns:
        The model, frozen as in the run.

    Raises:
        ValueError: as `build_towers` and `choose_trained`.
        ImportError: transformers is missing.
    """
    text, fusion, tower = config.text, config.fusion, build_video_tower(config.model, config.data)
    sizes = config.model.embed_dim, config.loss.of_temperature
    model: VideoTextModel
    if heard := audio_config(config):
        audio = AudioTower(heard)
        split, _ = _split_config(text, fusion.fusion_layers)
        model = AudioVideoTextModel(tower, SplitBert(split, audio.dim), audio, *sizes, fusion.word_ratio)
    elif fusion.fusion_layers:
        split, _ = _split_config(text, fusion.fusion_layers)
        model = VideoTextFusionModel(tower, SplitBert(split, tower.token_dim), *sizes, fusion.word_ratio)
    else:
        if text.text_model:
            _check_folder(text.text_model)
        model = VideoTextModel(tower, TextTower(_random_encoder(text.text_model), text.text_pool), *sizes)
    choose_trained(model, config.model.train, text.freeze_text)
    return model


def choose_trained(model: VideoTextModel, train: str, freeze_text: bool) -> None:
    """Freeze what is not trained; an audio tower never is, as published.

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
    if isinstance(model, AudioVideoTextModel):
        model.freeze_audio()
