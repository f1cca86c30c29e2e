"""BERT split in two: text layers, then fusion layers, which also attend to the tokens of a video.

The names of parameters are those of BERT's checkpoints and of InternVideo2's second stage. Attention goes both ways: a
fusion layer of transformers must be a decoder, which is causal, and so it is not used.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear
from .text_tower import TEXT_POOLS, TextRows, check_captions


@dataclass(frozen=True)
class SplitBertConfig:
    """A BERT, and where it is split.

    Args:
        dim: H, the width.
        depth: layers, text and fusion layers together.
        heads: attention heads; they divide dim.
        text_layers: layers before the fusion layers; `depth` of them leave no fusion layer.
        hidden: hidden units of a layer's MLP.
        vocab_size: rows of the word embedding.
        max_length: rows of the position embedding.
        segments: rows of the segment embedding, of which row 0 is used.
        dropout: rate of dropout after each part of a layer and of attention weights, in [0, 1).
        norm_eps: eps of all LayerNorms.
        pad_id: token of padding.
        cls_id: first token of a caption.
        mask_id: token that stands for a hidden word.
        pool: row of a caption, a name of TEXT_POOLS; "first" as published.

    Raises:
        ValueError: numbers do not fit together, or are out of range; the message names the field.
    """

    dim: int
    depth: int
    heads: int
    text_layers: int
    hidden: int
    vocab_size: int = 30522
    max_length: int = 512
    segments: int = 2
    dropout: float = 0.1
    norm_eps: float = 1e-12
    pad_id: int = 0
    cls_id: int = 101
    mask_id: int = 103
    pool: str = "first"

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads", "text_layers", "hidden", "vocab_size", "max_length", "segments"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if self.text_layers > self.depth:
            raise ValueError(f"text_layers must be from 1 to depth {self.depth}, got {self.text_layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.pool not in TEXT_POOLS:
            raise ValueError(f"pool must be one of {TEXT_POOLS}, got '{self.pool}'")
        for name in ("pad_id", "cls_id", "mask_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name} must be from 0 to {self.vocab_size - 1}, got {getattr(self, name)}")


# The published text model: BERT-large (uncased), whose last five layers are fusion layers.
BERT_LARGE = SplitBertConfig(1024, 24, 16, text_layers=19, hidden=4096)


class _Projections(nn.Module):
    """Queries of some rows, keys and values of others, and their attention."""

    def __init__(self, config: SplitBertConfig, source_dim: int) -> None:
        super().__init__()
        self.heads, self.rate = config.heads, config.dropout
        self.query = Linear(config.dim, config.dim)
        self.key = Linear(source_dim, config.dim)
        self.value = Linear(source_dim, config.dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        layers = (x, self.query), (source, self.key), (source, self.value)
        q, k, v = (linear(rows, layer).unflatten(2, (self.heads, -1)).transpose(1, 2) for rows, layer in layers)
        rate = self.rate if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate).transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    """norm(x + dropout(linear(y)))."""

    def __init__(self, config: SplitBertConfig, source_dim: int) -> None:
        super().__init__()
        self.dense = Linear(source_dim, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(x + self.dropout(linear(y, self.dense)))
        return normed


class BertAttention(nn.Module):
    """Attention to the rows of `source`, with its residual and norm."""

    def __init__(self, config: SplitBertConfig, source_dim: int) -> None:
        super().__init__()
        self.self = _Projections(config, source_dim)
        self.output = BertOutput(config, config.dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        output: Tensor = self.output(self.self(x, source, mask), x)
        return output


class BertLayer(nn.Module):
    """A post-norm layer of BERT, with cross-attention between self-attention and MLP if it has a source.

    Args:
        config: the model.
        source_dim: width of the rows that cross-attention reads; None: no cross-attention.
    """

    def __init__(self, config: SplitBertConfig, source_dim: int | None = None) -> None:
        super().__init__()
        self.attention = BertAttention(config, config.dim)
        if source_dim is not None:
            self.crossattention = BertAttention(config, source_dim)
        self.intermediate = nn.ModuleDict({"dense": Linear(config.dim, config.hidden)})
        self.output = BertOutput(config, config.hidden)

    def forward(self, x: Tensor, mask: Tensor, source: Tensor | None = None) -> Tensor:
        """x (B, L, H), mask (B, 1, 1, L) bool, source (B, S, source_dim) → (B, L, H)."""
        x = self.attention(x, x, mask)
        if source is not None:
            x = self.crossattention(x, source, None)
        output: Tensor = self.output(F.gelu(linear(x, self.intermediate["dense"])), x)
        return output


class _Embeddings(nn.Module):
    """norm(word + position + segment 0)."""

    def __init__(self, config: SplitBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim, padding_idx=config.pad_id)
        self.position_embeddings = nn.Embedding(config.max_length, config.dim)
        self.token_type_embeddings = nn.Embedding(config.segments, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        position = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(ids) + position))
        return embedded


class _Bert(nn.Module):
    _no_split_modules = ("BertLayer",)  # transformers' name for units of FSDP2

    def __init__(self, config: SplitBertConfig, source_dim: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        fusion = range(config.text_layers, config.depth)
        layers = [BertLayer(config, source_dim if i in fusion else None) for i in range(config.depth)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})


class _WordHead(nn.Module):
    """BERT's head of masked words: transform, then the word embedding itself, and a bias."""

    def __init__(self, config: SplitBertConfig) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": Linear(config.dim, config.dim), "LayerNorm": nn.LayerNorm(config.dim, eps=config.norm_eps)}
        )
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        x = self.transform["LayerNorm"](F.gelu(linear(x, self.transform["dense"])))
        return F.linear(x, words, self.bias)


class SplitBert(nn.Module):
    """A text tower whose last layers fuse its tokens with those of a video.

    Its state_dict has the names and shapes of BERT's checkpoints (`bert.encoder.layer.…`, `cls.predictions.…`) and, for
    cross-attention, of `text_encoder.` in the published checkpoints of InternVideo2's second stage. The decoder of the
    words' head is the word embedding, and is not stored again.

    Args:
        config: the model.
        source_dim: width of the video's tokens.

    Attributes:
        dim: H.

    References:
        BERT, arXiv 1810.04805; InternVideo2, arXiv 2403.15377, section 3.2, and
        models/backbones/bert/xbert.py of OpenGVLab/InternVideo, InternVideo2/multi_modality.
    """

    def __init__(self, config: SplitBertConfig, source_dim: int) -> None:
        super().__init__()
        self.config, self.source_dim = config, source_dim
        self.dim, self.vocab_size, self.max_length = config.dim, config.vocab_size, config.max_length
        self.bert = _Bert(config, source_dim)
        self.cls = nn.ModuleDict({"predictions": _WordHead(config)})
        self.apply(init_bert)

    def forward(self, ids: Tensor, mask: Tensor) -> TextRows:
        """Rows of captions after the text layers.

        Args:
            ids: (B, L) int64 token numbers.
            mask: (B, L) bool or integer: 1 for tokens, 0 for padding.

        Returns:
            The rows; `pooled` is token 0, or the mean of the tokens that are no padding.

        Raises:
            ValueError: a shape or, on a CPU, a value is wrong, or captions are longer than the model takes.
            TypeError: `ids` is not int64, or `mask` is floating.
        """
        check_captions(ids, mask, self.vocab_size, self.max_length)
        x, keys = self.bert.embeddings(ids), _key_mask(mask)
        for layer in self._layers[: self.config.text_layers]:
            x = layer(x, keys)
        if self.config.pool == "first":
            return TextRows(x, x[:, 0])
        weight = mask.to(x.dtype)[..., None]
        return TextRows(x, (x * weight).sum(1) / weight.sum(1))

    def fuse(self, tokens: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """The fusion layers.

        Args:
            tokens: (B, L, H) after the text layers.
            mask: (B, L) of the captions.
            source: (B, S, source_dim) tokens of the videos, all of which are attended to.

        Returns:
            (B, L, H).

        Raises:
            ValueError: the model has no fusion layer, or the sizes differ.
        """
        self.check_fusion()
        if source.ndim != 3 or source.shape[0] != tokens.shape[0] or mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"tokens {tuple(tokens.shape)}, mask {tuple(mask.shape)} and source {tuple(source.shape)} must be "
                "(B, L, H), (B, L) and (B, S, D)"
            )
        keys = _key_mask(mask)
        for layer in self._layers[self.config.text_layers :]:
            tokens = layer(tokens, keys, source)
        return tokens

    def check_fusion(self) -> None:
        """Make sure that there are fusion layers.

        Raises:
            ValueError: all layers are text layers.
        """
        if self.config.text_layers == self.config.depth:
            raise ValueError(f"text_layers is depth {self.config.depth}, which leaves no layer to fuse with a video")

    def words(self, tokens: Tensor) -> Tensor:
        """Logits of words, (…, vocab_size), of tokens (…, H) after the fusion layers."""
        logits: Tensor = self.cls["predictions"](tokens, self.bert.embeddings.word_embeddings.weight)
        return logits

    @property
    def _layers(self) -> Any:
        return self.bert.encoder["layer"]


def _key_mask(mask: Tensor) -> Tensor:
    return mask.bool()[:, None, None]


def init_bert(module: nn.Module) -> None:
    """BERT's initialisation: normal of deviation 0.02, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
