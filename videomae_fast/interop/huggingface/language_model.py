"""Causal language models of transformers, and the tokenizers of their chats."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._optional import require
from ...models.language_model import check_language_model, check_vocabulary
from ..checkpoint import CheckpointError
from ..settings import PathLike
from .gguf import GGUF, check_gguf, gguf_damage, is_gguf, place_of
from .text import LOCAL, reason

_WEIGHTS = ("config.json", "*.safetensors", "*.bin")


@dataclass(frozen=True)
class LanguageModelFolder:
    """A language model that others refer to.

    Attributes:
        path: its folder, or its GGUF file.
        digest: of its weights and configuration, 16 hexadecimal digits.
    """

    path: str
    digest: str

    @classmethod
    def of(cls, path: PathLike) -> "LanguageModelFolder":
        """Read all weights of a folder, or of a GGUF file, once, for their digest.

        Raises:
            CheckpointError: it is no folder with weights, and no GGUF file.
        """
        place = Path(path)
        files = sorted(file for pattern in _WEIGHTS for file in place.glob(pattern))
        if is_gguf(place):
            files = [place]
        elif not any(file.suffix != ".json" for file in files):
            raise CheckpointError(f"{str(path)!r} is no folder with the weights of a language model of transformers")
        digest = hashlib.sha256()
        for file in files:
            name = "" if file == place else file.name  # a GGUF file may have any
            digest.update(f"{name} {file.stat().st_size}".encode())
            with open(file, "rb") as opened:
                while part := opened.read(1 << 24):
                    digest.update(part)
        return cls(str(path), digest.hexdigest()[:16])


def read_language_model(path: PathLike) -> nn.Module:
    """Read a causal language model, such as LLaMA's, Mistral's or Qwen's.

    Args:
        path: a folder that `save_pretrained` wrote, or a GGUF file of an architecture that transformers knows, whose
            quantised weights become floating.

    Returns:
        The model, in the dtype of its weights; of quantised ones, in float32.

    Raises:
        ImportError: transformers, or gguf for a GGUF file, is missing.
        CheckpointError: `path` is neither; a GGUF file is cut off, damaged or of another architecture; or weights of
            the model are missing there.
        TypeError: it has no linear head.
        ValueError: it changes its logits.
    """
    transformers = require("transformers")
    _check_place(Path(path))
    options: dict[str, Any] = {"output_loading_info": True, "torch_dtype": "auto", **LOCAL}
    if is_gguf(path) and hasattr(transformers, "GgufConfig"):  # which else may leave weights quantised
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(**place_of(path), **options)
    except Exception as error:  # each format of weights has errors of its own
        raise CheckpointError(
            f"{str(path)!r} is no language model that transformers reads: {reason(error)}{gguf_damage(path)}"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{str(path)!r}: {type(model).__name__} lacks {', '.join(missing[:8])}")
    check_language_model(model)
    found: nn.Module = model
    return found


def language_model_of_size(path: PathLike) -> nn.Module:
    """Make a causal language model with random weights, of the size that a config.json tells: to predict memory.

    Args:
        path: a folder with config.json, whose weights and tokenizer may be missing; or a GGUF file. Neither's weights
            are read.

    Returns:
        The model, in the dtype that config.json tells, or else in PyTorch's default.

    Raises:
        ImportError: transformers is missing.
        CheckpointError: `path` has no config.json of a causal language model that transformers knows.
        TypeError: it has no linear head.
        ValueError: it changes its logits.
    """
    config = _read_config(path)
    try:
        with _default_dtype(_dtype_of(config)):
            model = require("transformers").AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise CheckpointError(
            f"{str(path)!r} has no config.json of a causal language model: {reason(error)}"
        ) from error
    check_language_model(model)
    found: nn.Module = model
    return found


def language_model_dtype(path: PathLike) -> torch.dtype:
    """The dtype of what `language_model_of_size` makes.

    Args:
        path: as it takes it.

    Returns:
        The dtype that config.json tells, or else PyTorch's default.

    Raises:
        ImportError: transformers is missing.
        CheckpointError: `path` has no config.json that transformers knows.
    """
    return _dtype_of(_read_config(path))


def _read_config(path: PathLike) -> Any:
    transformers = require("transformers")
    _check_place(Path(path))
    try:
        return transformers.AutoConfig.from_pretrained(**place_of(path), **LOCAL)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{str(path)!r} has no config.json that transformers knows: {reason(error)}{gguf_damage(path)}"
        ) from error


def _dtype_of(config: Any) -> torch.dtype:
    told = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)  # the latter before transformers 5
    return told or torch.get_default_dtype()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def read_chat_tokenizer(path: PathLike, model: nn.Module) -> Any:
    """Read the tokenizer of a language model.

    Args:
        path: the folder or the GGUF file of the model, or a folder of the tokenizer alone.
        model: the language model.

    Returns:
        The tokenizer.

    Raises:
        ImportError: transformers, or gguf for a GGUF file, is missing.
        CheckpointError: there is no tokenizer at `path`.
        ValueError: it has more tokens than the model.
    """
    transformers = require("transformers")
    if is_gguf(path):
        check_gguf(path)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**place_of(path), **LOCAL)
    except Exception as error:
        raise CheckpointError(
            f"{str(path)!r} has no tokenizer that transformers reads: {reason(error)}{gguf_damage(path)}"
        ) from error
    # To the tokens of a GGUF file transformers may add one of the class that it takes, which is in no text.
    tokens = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False) if is_gguf(path) else len(tokenizer)
    check_vocabulary(model, tokens)
    if is_gguf(path):  # of whose two tokens transformers before version 5 takes one for both
        config: Any = model.config
        for name in ("bos_token", "eos_token"):
            if isinstance(number := getattr(config, f"{name}_id", None), int):
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    return tokenizer


def _check_place(place: Path) -> None:
    """Make sure that there is a folder or a GGUF file, and that a GGUF file can be read here."""
    if is_gguf(place):
        check_gguf(place)
    elif not place.is_dir():
        raise CheckpointError(
            f"{str(place)!r} is no folder with a language model of transformers, and no GGUF file of one"
        )
    elif not (place / "config.json").is_file() and (files := sorted(place.glob(f"*{GGUF}"))):
        raise CheckpointError(f"{str(place)!r} has no config.json: name its GGUF file itself, such as {files[0]}")
