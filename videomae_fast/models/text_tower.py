"""The text tower of a dual encoder: any encoder of transformers, and one row for each caption."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._optional import require
from .values import can_be_read

TEXT_POOLS = ("mean", "first")
_ATTENTION = "videomae_fast_sdpa"  # what transformers knows the attention of `_never_ask_for_padding` as


class TextRows(NamedTuple):
    """What a text tower makes of captions.

    Attributes:
        tokens: (B, L, H), the rows of all tokens, also of padding.
        pooled: (B, H), one row for each caption.
    """

    tokens: Tensor
    pooled: Tensor


class TextTower(nn.Module):
    """An encoder of transformers, such as BERT, MiniLM or RoBERTa.

        pooled = Σₗ mask[l]·tokens[l] / Σₗ mask[l]   or   tokens[0]

    The model's own pooler is not used, and is taken away. A step has no host sync: transformers, from version 5 on, is
    kept from asking the device whether captions have padding.

    Args:
        model: takes `input_ids` and `attention_mask`, and returns `last_hidden_state`; its `config` has `vocab_size`
            and `hidden_size`. It is changed in place.
        pool: "mean" of the tokens that are no padding, as LongViViT and MiniLM; "first", as InternVideo2.

    Attributes:
        dim: H.

    Raises:
        ValueError: TEXT_POOLS has no such pooling, or the model has a decoder or a configuration that does not tell its
            sizes.
    """

    def __init__(self, model: nn.Module, pool: str = "mean") -> None:
        super().__init__()
        if pool not in TEXT_POOLS:
            raise ValueError(f"pool must be one of {TEXT_POOLS}, got '{pool}'")
        if isinstance(getattr(model, "decoder", None), nn.Module):
            raise ValueError(f"model must be an encoder, got {type(model).__name__}, which has a decoder, too")
        config: Any = getattr(model, "config", None)
        sizes = [getattr(config, name, None) for name in ("hidden_size", "vocab_size")]
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(
                f"model must be a text encoder whose config has hidden_size and vocab_size, got {type(model).__name__} "
                f"with {sizes[0]} and {sizes[1]}"
            )
        if isinstance(getattr(model, "pooler", None), nn.Module):
            model.register_module("pooler", None)  # its parameters would get no gradient
        if isinstance(getattr(model, "head", None), nn.Linear):  # SigLIP's pooler
            model.register_module("head", nn.Identity())
        _never_ask_for_padding(model)
        self.model = model
        self.pool = pool
        self.dim, self.vocab_size = int(config.hidden_size), int(config.vocab_size)
        self.max_length = int(getattr(config, "max_position_embeddings", 2**31)) - _unused_positions(model)

    def forward(self, ids: Tensor, mask: Tensor) -> TextRows:
        """Rows of captions.

        Args:
            ids: (B, L) int64 token numbers.
            mask: (B, L) bool or integer: 1 for tokens, 0 for padding; a caption has one token or more.

        Returns:
            The rows.

        Raises:
            ValueError: a shape or, on a CPU, a value is wrong, or captions are longer than the model takes.
            TypeError: `ids` is not int64, or `mask` is floating.
        """
        check_captions(ids, mask, self.vocab_size, self.max_length)
        tokens = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if self.pool == "first":
            return TextRows(tokens, tokens[:, 0])
        weight = mask.to(tokens.dtype)[..., None]
        return TextRows(tokens, (tokens * weight).sum(1) / weight.sum(1))


def _never_ask_for_padding(model: nn.Module) -> None:
    """Make a model of transformers attend with its mask even where no caption has padding.

    transformers leaves out a mask that hides nothing, so that it can take a faster kernel, and for this it waits for
    the device once in each step. Captions of a batch hardly ever are of one length.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return
    transformers = require("transformers")
    kinds: list[Any] = [getattr(transformers, name, None) for name in ("AttentionInterface", "AttentionMaskInterface")]
    if None in kinds or not hasattr(require("transformers.masking_utils"), "create_bidirectional_mask"):
        return  # before version 5, whose models make their masks each in a way of its own
    attend = require("transformers.integrations.sdpa_attention").sdpa_attention_forward
    for kind, function in zip(kinds, (attend, _whole_mask), strict=True):
        kind.register(_ATTENTION, function)
    model.set_attn_implementation(_ATTENTION)  # type: ignore[operator]


def _whole_mask(*args: Any, **options: Any) -> Tensor:
    skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor = require("transformers.masking_utils").sdpa_mask(*args, **(options | skips))
    return mask


def _unused_positions(model: nn.Module) -> int:
    """Rows of the position table that captions cannot use: RoBERTa and MPNet number positions from padding_idx + 1."""
    named = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    tables = [module for module in named if isinstance(module, nn.Embedding)]
    return max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)


def check_captions(ids: Tensor, mask: Tensor, vocab_size: int, max_length: int) -> None:
    """Make sure that captions are ones that a text model can read.

    Args:
        ids: (B, L) int64 token numbers.
        mask: (B, L) bool or integer.
        vocab_size: token numbers that the model knows.
        max_length: positions that it has.

    Raises:
        ValueError: a shape is wrong, captions are longer than the model takes or, on a CPU, where reading a value is no
            host sync, a token is not in the vocabulary or a caption has none.
        TypeError: `ids` is not int64, or `mask` is floating.
    """
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        raise TypeError(f"ids must be an int64 tensor, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"mask must be a tensor of bool or integers, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if ids.ndim != 2 or 0 in ids.shape or mask.shape != ids.shape:
        raise ValueError(f"ids and mask must both be (B, L), got {tuple(ids.shape)} and {tuple(mask.shape)}")
    if ids.shape[1] > max_length:
        raise ValueError(
            f"ids must have {max_length} tokens at most, which is what the text model has positions for, got "
            f"{ids.shape[1]}: cut captions when they are tokenised"
        )
    if can_be_read(ids):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"ids must be from 0 to {vocab_size - 1}, the vocabulary of the text model, got {low} to {high}: is "
                "the tokenizer that of the model?"
            )
        if not bool(mask.any(1).all()):
            raise ValueError(f"caption {int((~mask.any(1)).nonzero()[0, 0])} has no token that mask lets through")


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Make sure that a tokenizer is the text model's: that the model has a row for each of its tokens.

    A model may have more rows than its tokenizer has tokens, because rows are often padded.

    Args:
        tokenizer: of transformers.
        vocab_size: rows of the model's embedding.

    Raises:
        ValueError: the tokenizer has more tokens than the model, or no token for padding.
    """
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} tokens, and the text model {vocab_size}: it is of another model"
        )
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise ValueError("tokenizer has no token for padding (pad_token): captions of a batch must have one length")
