"""Connectors: few rows for a language model, made of the many tokens of a video tower."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_kernels import masked_token_scatter

from .bert import BertAttention, BertOutput, SplitBertConfig, init_bert
from .gated_attention import AttentionToRows, FeedForward
from .linear import Linear, linear


class Connector(nn.Module):
    """Rows (B, Q, out_dim) of a video's tokens (B, S, D): the base of all connectors.

    Attributes:
        num_rows: Q.
        source_dim: D.
        out_dim: width of the rows.
        settings: the arguments that make another one of the same sizes.
    """

    num_rows: int
    source_dim: int
    out_dim: int
    settings: dict[str, Any]

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows for a language model.

        Args:
            tokens: (B, S, D) floating, of a video tower.
            mask: (B, S) bool, True for tokens that are read, one or more of each video; None: all.

        Returns:
            (B, Q, out_dim).

        Raises:
            ValueError: a shape is wrong.
        """
        if tokens.ndim != 3 or tokens.shape[2] != self.source_dim or 0 in tokens.shape:
            raise ValueError(f"tokens must be (B, S, {self.source_dim}), got {tuple(tokens.shape)}")
        if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"mask must be bool {tuple(tokens.shape[:2])}, as tokens, got {mask.dtype} {tuple(mask.shape)}"
            )
        return self._rows(tokens, mask)

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class QFormer(Connector):
    """The Q-Former of VideoChat2 and InternVideo2's third stage: learned queries in a BERT read the tokens.

        rows = proj(bert([query_tokens, extra_query_tokens], vision_layernorm(tokens)))

    Queries attend to each other in each layer, and to the tokens in every second layer, from the first. Names are those
    of VideoChat2's checkpoints, but for `proj`, which they name after their language model. Instructions do not enter
    it, which InternVideo2 found better (table 19), and it has no stochastic depth.

    Args:
        source_dim: D.
        out_dim: width of the language model.
        queries: drawn from N(0, 0.02²); of the first stage.
        extra_queries: zero at first; new in the second stage.
        dim: width of the BERT.
        depth: its layers.
        heads: its attention heads.
        hidden: hidden units of its MLPs.
        dropout: after each part of a layer and of attention weights.

    References:
        BLIP-2, arXiv 2301.12597, section 3.1; MVBench (VideoChat2), arXiv 2311.17005, section 4; InternVideo2, arXiv
        2403.15377, section 3.3; video_chat2/models/blip2/ of OpenGVLab/Ask-Anything.
    """

    def __init__(
        self,
        source_dim: int,
        out_dim: int,
        *,
        queries: int = 32,
        extra_queries: int = 64,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        check_sizes(source_dim=source_dim, out_dim=out_dim, queries=queries)
        config = SplitBertConfig(dim, depth, heads, text_layers=depth, hidden=hidden, dropout=dropout)
        self.source_dim, self.out_dim, self.num_rows = source_dim, out_dim, queries + extra_queries
        self.vision_layernorm = nn.LayerNorm(source_dim, eps=config.norm_eps)
        self.query_tokens = nn.Parameter(0.02 * torch.randn(1, queries, dim))
        self.extra_query_tokens = nn.Parameter(torch.zeros(1, extra_queries, dim)) if extra_queries else None
        layers = [_QFormerLayer(config, None if i % 2 else source_dim) for i in range(depth)]
        embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(dim, eps=config.norm_eps)})
        encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.qformer = nn.ModuleDict({"bert": nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})})
        self.qformer.apply(init_bert)
        self.dropout = nn.Dropout(dropout)
        self.proj = Linear(dim, out_dim)

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        bert: Any = self.qformer["bert"]
        extra = self.extra_query_tokens
        queries = self.query_tokens if extra is None else torch.cat([self.query_tokens, extra], 1)
        x = self.dropout(bert["embeddings"]["LayerNorm"](queries).expand(len(tokens), -1, -1))
        tokens = self.vision_layernorm(tokens)
        keys = None if mask is None else mask[:, None, None]
        for layer in bert["encoder"]["layer"]:
            x = layer(x, tokens, keys)
        return linear(x, self.proj)


class _QFormerLayer(nn.Module):
    """A layer of BERT for queries; `source_dim` None: without cross-attention."""

    def __init__(self, config: SplitBertConfig, source_dim: int | None) -> None:
        super().__init__()
        self.attention = BertAttention(config, config.dim)
        self.crossattention = None if source_dim is None else BertAttention(config, source_dim)
        self.intermediate_query = nn.ModuleDict({"dense": Linear(config.dim, config.hidden)})
        self.output_query = BertOutput(config, config.hidden)

    def forward(self, x: Tensor, tokens: Tensor, keys: Tensor | None) -> Tensor:
        x = self.attention(x, x, None)
        if self.crossattention is not None:
            x = self.crossattention(x, tokens, keys)
        output: Tensor = self.output_query(F.gelu(linear(x, self.intermediate_query["dense"])), x)
        return output


class PerceiverResampler(Connector):
    """Flamingo's resampler: learned latents read the tokens and themselves, in each layer.

        latents ← latents + attention(norm(latents), [norm(tokens), norm(latents)]);  latents ← latents + ff(latents)
        rows = proj(norm(latents))

    Names are OpenFlamingo's, but for `proj`. It has no embeddings of frames, because tokens have positions already.

    Args:
        source_dim: D, also the width of the latents.
        out_dim: width of the rows; None: D, without `proj`, as Flamingo's for gated cross-attention.
        latents: Q, drawn from N(0, 1).
        depth: layers.
        heads: attention heads.
        head_dim: width of a head.

    References:
        Alayrac et al., Flamingo, arXiv 2204.14198, section 2.1; `PerceiverResampler` of mlfoundations/open_flamingo,
        open_flamingo/src/helpers.py; LongViViT, arXiv 2312.07395, section 3, for its use.
    """

    def __init__(
        self,
        source_dim: int,
        out_dim: int | None = None,
        *,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_dim: int = 64,
    ) -> None:
        super().__init__()
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        check_sizes(source_dim=source_dim, latents=latents, depth=depth, heads=heads, head_dim=head_dim)
        self.source_dim, self.num_rows = source_dim, latents
        self.out_dim = source_dim if out_dim is None else out_dim
        self.latents = nn.Parameter(torch.randn(latents, source_dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([_PerceiverAttention(source_dim, source_dim, heads, head_dim), FeedForward(source_dim)])
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(source_dim)
        self.proj = None if out_dim is None else Linear(source_dim, out_dim)

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        x = self.latents.expand(len(tokens), -1, -1)
        if mask is not None:
            mask = F.pad(mask, (0, self.num_rows), value=True)
        layers: Any = self.layers
        for attention, ff in layers:
            x = x + attention(x, tokens, mask)
            x = x + ff(x)
        x = self.norm(x)
        return x if self.proj is None else linear(x, self.proj)


class _PerceiverAttention(AttentionToRows):
    def __init__(self, dim: int, source_dim: int, heads: int, head_dim: int) -> None:
        super().__init__(dim, source_dim, heads, head_dim)
        self.norm_media = nn.LayerNorm(source_dim)
        self.norm_latents = nn.LayerNorm(dim)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm_latents(x)
        return self.attend(x, torch.cat([self.norm_media(tokens), x], 1), mask)


class MeanPoolMLP(Connector):
    """The mean token through an MLP.

        rows = fc2(gelu(fc1(norm(mean of tokens))))

    Args:
        source_dim: D.
        out_dim: width of the language model.
        rows: Q, made of the one mean token.
        hidden: hidden units; None: `out_dim`.

    References:
        Mokady et al., ClipCap, arXiv 2111.09734, for several rows of one; LLaVA-1.5, arXiv 2310.03744, for two layers.
    """

    def __init__(self, source_dim: int, out_dim: int, *, rows: int = 1, hidden: int | None = None) -> None:
        super().__init__()
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        check_sizes(source_dim=source_dim, out_dim=out_dim, rows=rows)
        self.source_dim, self.out_dim, self.num_rows = source_dim, out_dim, rows
        self.norm = nn.LayerNorm(source_dim)
        self.fc1 = Linear(source_dim, hidden or out_dim)
        self.fc2 = Linear(hidden or out_dim, rows * out_dim)

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        weight = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens.dtype)
        pooled = (tokens * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return linear(F.gelu(linear(self.norm(pooled), self.fc1)), self.fc2).unflatten(1, (self.num_rows, -1))


CONNECTORS: dict[str, type[Connector]] = {each.__name__: each for each in (QFormer, PerceiverResampler, MeanPoolMLP)}


def temporal_mean(tokens: Tensor, visible: Tensor | None, grid: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """The mean over time of the tokens of each place, as LongViViT pools before its resampler.

        out[b, p] = mean over the visible tokens (t, p) of clip b

    Args:
        tokens: (B, K, D), without a cls token.
        visible: (B, K) their numbers in the grid, unique per clip; None: all, in order.
        grid: (T', H', W').

    Returns:
        (B, H'·W', D), zero where no token of a place is visible, and (B, H'·W') bool, False there; None if all are.

    References:
        LongViViT, arXiv 2312.07395, section 3: pooling keeps the number of tokens fixed for any number of frames.
    """
    frames, places = grid[0], math.prod(grid[1:])
    if visible is None:
        return tokens.unflatten(1, (frames, places)).mean(1), None
    # Into the whole grid and summed, because sums by place need atomics on a GPU, and would not repeat bitwise.
    sums = masked_token_scatter(tokens, visible, frames * places).unflatten(1, (frames, places)).sum(1)
    ones = tokens.new_ones(1, 1, 1).expand(*tokens.shape[:2], 1)
    counts = masked_token_scatter(ones, visible, frames * places).unflatten(1, (frames, places)).sum(1)
    return sums / counts.clamp_min(1), counts[..., 0] > 0


def check_sizes(**sizes: int) -> None:
    """Make sure that sizes are positive integers.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")
