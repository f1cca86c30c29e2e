"""Text models of transformers: any encoder as a text tower, BERT's weights for a split BERT, and tokenizers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._optional import require
from ..._text import printable
from ...models.bert import SplitBertConfig
from ...models.text_tower import TextTower, check_tokenizer
from ..checkpoint import CheckpointError, State
from ..settings import PathLike, settings_beside

_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder."
_BARE = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}  # AutoModel lacks them
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # the latter else asks at a terminal
_NO_PART = ("bert.pooler.", "cls.seq_relationship.", "bert.embeddings.position_ids")  # that a split BERT does not have


def read_text_tower(path: PathLike, pool: str = "mean") -> TextTower:
    """Read an encoder of transformers as a text tower.

    Args:
        path: a folder that `save_pretrained` wrote; of CLIP and SigLIP, whole or their text model alone.
        pool: "mean" or "first"; see `TextTower`.

    Returns:
        The tower, in float32.

    Raises:
        ImportError: transformers is missing.
        CheckpointError: `path` is no such folder, or weights of the model are missing there.
        ValueError: no pooling has this name, or it is no text encoder.
    """
    transformers = require("transformers")
    if not Path(path).is_dir():
        raise CheckpointError(f"{str(path)!r} is no folder with a text model of transformers")
    kind = getattr(transformers, _BARE.get(str(settings_beside(path).get("model_type")), "AutoModel"))
    try:
        model, info = kind.from_pretrained(path, output_loading_info=True, **LOCAL)
    except Exception as error:  # each format of weights has errors of its own
        raise CheckpointError(f"{str(path)!r} is no model that transformers reads: {reason(error)}") from error
    missing = [name for name in sorted(info["missing_keys"]) if "pooler." not in name]
    if missing:
        raise CheckpointError(f"{str(path)!r}: {type(model).__name__} lacks {', '.join(missing[:8])}")
    return TextTower(getattr(model, "text_model", model).float(), pool)


def new_text_model(path: PathLike) -> nn.Module:
    """A text encoder of transformers with random weights, of the size that a folder's config.json tells.

    Args:
        path: the folder.

    Returns:
        The encoder; of CLIP and SigLIP, their text model.

    Raises:
        ImportError: transformers is missing.
        CheckpointError: there is no config.json of a model that transformers has.
    """
    transformers = require("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(path, **LOCAL)
        bare = _BARE.get(config.model_type)
        model = getattr(transformers, bare)(config) if bare else transformers.AutoModel.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"text_model {printable(path)} cannot be read: {reason(error)}") from error
    encoder: nn.Module = getattr(model, "text_model", model)
    return encoder


def read_tokenizer(path: PathLike, vocab_size: int) -> Any:
    """Read the tokenizer of a text model.

    Args:
        path: the folder of the model, or one of the tokenizer alone.
        vocab_size: of the model.

    Returns:
        The tokenizer.

    Raises:
        ImportError: transformers is missing.
        CheckpointError: there is no tokenizer at `path`.
        ValueError: it is of another model: it has more tokens than the model, or none for padding.
    """
    transformers = require("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **LOCAL)
    except Exception as error:
        raise CheckpointError(f"{str(path)!r} has no tokenizer that transformers reads: {reason(error)}") from error
    check_tokenizer(tokenizer, vocab_size)
    return tokenizer


def split_bert_config(path: PathLike, text_layers: int, tokenizer: Any, **changes: Any) -> SplitBertConfig:
    """The configuration of a BERT that transformers saved, split after some layers.

    Args:
        path: its folder.
        text_layers: layers before the fusion layers.
        tokenizer: of the model; it tells the tokens of padding, of the beginning and of hidden words.
        **changes: further fields of `SplitBertConfig` that differ.

    Returns:
        The configuration.

    Raises:
        CheckpointError: `config.json` is missing, or of another kind of model.
        ValueError: the layers cannot be split so, or the tokenizer is of another model or has no such token.
    """
    settings = settings_beside(path)
    if settings.get("model_type") != "bert":
        raise CheckpointError(
            f"{str(path)!r} has no config.json of BERT: its model_type is {settings.get('model_type')}"
        )
    check_tokenizer(tokenizer, settings["vocab_size"])
    tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "cls_token_id", "mask_token_id")}
    if lacking := [name for name, number in tokens.items() if number is None]:
        raise ValueError(f"tokenizer has no {', '.join(lacking)}, which hiding words needs")
    found = {
        "dim": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "hidden": settings["intermediate_size"],
        "vocab_size": settings["vocab_size"],
        "max_length": settings["max_position_embeddings"],
        "segments": settings["type_vocab_size"],
        "dropout": settings["hidden_dropout_prob"],
        "norm_eps": settings["layer_norm_eps"],
        "pad_id": tokens["pad_token_id"],
        "cls_id": tokens["cls_token_id"],
        "mask_id": tokens["mask_token_id"],
    }
    return SplitBertConfig(text_layers=text_layers, **{**found, **changes})


def reason(error: Exception) -> str:
    """The first line of what transformers says, which may list all models that it knows."""
    return printable(str(error).strip().partition("\n")[0])


def is_bert(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of a BERT, with or without the prefix `bert.`."""
    return any(name.removeprefix("bert.") == "embeddings.word_embeddings.weight" for name in state)


def bert_state(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], config: SplitBertConfig
) -> tuple[State, list[str]]:
    """Weights of a BERT with the names of a `SplitBert`.

    Args:
        state: of any of transformers' BERT classes, of the first releases (gamma, beta), or of InternVideo2's stage 2.
        settings: the `config.json` beside them; {} if there is none.
        config: the model that they are for.

    Returns:
        The weights, and the names in the file that the model has nothing for.

    Raises:
        CheckpointError: another number of heads or another activation; a name is there twice; or the decoder of words
            is not the word embedding.
    """
    for name, value in (("num_attention_heads", config.heads), ("hidden_act", "gelu")):
        if settings.get(name, value) != value:
            raise CheckpointError(f"config.json has {name} {settings[name]}, the model {value}")
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError("config.json has relative positions (position_embedding_type), the model absolute ones")
    renamed = {_rename(name): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        raise CheckpointError("it holds some names twice, with and without the prefix 'bert.', or as gamma and weight")
    words, decoder = renamed[_WORDS], renamed.pop(f"{_DECODER}weight", None)
    if decoder is not None and not torch.equal(decoder, words):
        raise CheckpointError(f"{_DECODER}weight is not the word embedding, which the words' head of the model is")
    bias = renamed.pop(f"{_DECODER}bias", None)
    if bias is not None and not torch.equal(renamed.setdefault("cls.predictions.bias", bias), bias):
        raise CheckpointError(f"{_DECODER}bias is not cls.predictions.bias, and the model has one of them")
    unused = [name for name in renamed if name.startswith(_NO_PART)]
    return {name: tensor for name, tensor in renamed.items() if name not in unused}, unused


def _rename(name: str) -> str:
    name = re.sub(r"LayerNorm\.(gamma|beta)$", lambda found: f"LayerNorm.{_NEW[found[1]]}", name)
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


_NEW = {"gamma": "weight", "beta": "bias"}
