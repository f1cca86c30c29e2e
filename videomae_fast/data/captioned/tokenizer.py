"""Captions as tokens of a text model."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..._optional import require
from ..._text import printable
from .batch import CaptionTokens


class CaptionTokenizer:
    """`tokenizer(captions)` makes the tokens of a batch, all of one length, and tells which captions were cut.

    Args:
        tokenizer: a fast tokenizer of transformers with a padding token.
        max_tokens: L, the tokens of a caption, special tokens included. Longer captions are cut, shorter ones padded.

    Attributes:
        tokenizer: as given.
        max_tokens: as given.

    Raises:
        ValueError: the tokenizer is no fast one, has no padding token or no words, `max_tokens` leaves no token beside
            the special ones, or is more than the text model was made for.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        name = printable(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer must be a fast one of transformers, got {name}")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"tokenizer must have a padding token, got {name}, which has none: set its pad_token")
        if set(tokenizer.get_vocab().values()) <= set(
            tokenizer.all_special_ids
        ):  # made without files by transformers 5
            raise ValueError(
                f"tokenizer must have words, got {name}, which has special tokens alone: is it a tokenizer?"
            )
        special = tokenizer.num_special_tokens_to_add()
        if not special < max_tokens <= tokenizer.model_max_length:
            raise ValueError(
                f"max_tokens must be more than {special} special tokens and at most {tokenizer.model_max_length}, the "
                f"most that {name} is made for, got {max_tokens}"
            )
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @classmethod
    def read(cls, source: str | os.PathLike, max_tokens: int) -> "CaptionTokenizer":
        """Read a tokenizer. No code of the source runs.

        Args:
            source: a folder that transformers wrote, or a name on the Hugging Face hub.
            max_tokens: L, the tokens of a caption.

        Returns:
            The tokenizer.

        Raises:
            ValueError: as `CaptionTokenizer`; also if there is no tokenizer at `source`.
            ImportError: transformers is missing; the message names the extra that installs it.
        """
        transformers = require("transformers")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(os.fspath(source), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            reason = printable(str(error).strip().partition("\n")[0])
            raise ValueError(f"no tokenizer can be read from {printable(source)}: {reason}") from error
        return cls(tokenizer, max_tokens)

    def __call__(self, captions: Sequence[str]) -> tuple[CaptionTokens, torch.Tensor]:
        """Make the tokens of captions.

        Args:
            captions: B texts, at least one.

        Returns:
            The tokens, and (B,) bool: whether a caption was cut.
        """
        made = self.tokenizer(list(captions), truncation=True, max_length=self.max_tokens, padding="max_length")
        cut = torch.tensor([bool(encoding.overflowing) for encoding in made.encodings])
        input_ids = torch.tensor(made["input_ids"], dtype=torch.int64)
        return CaptionTokens(input_ids, torch.tensor(made["attention_mask"], dtype=torch.bool)), cut
