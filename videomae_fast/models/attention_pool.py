"""The attention pool of InternVideo2: one row per clip, which attends to all tokens."""

import torch
from torch import Tensor, nn

from .attention import attention
from .config import ClipConfig
from .linear import Linear, Source, linear
from .norms import LayerNorm, add_norm

POOL_EPS = 1e-5  # of the LayerNorms of the published pool and heads; its RMSNorms have 1e-6


class CrossAttention(nn.Module):
    """Attention of given queries to other rows, with a bias each for queries, keys and values (published names)."""

    def __init__(self, dim: int, heads: int, out: int, backend: str) -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.q = Linear(dim, dim, bias=False)
        self.k = Linear(dim, dim, bias=False)
        self.v = Linear(dim, dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.k_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = Linear(dim, out)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, sources: tuple[Source | None, ...] = (None, None, None)
    ) -> Tensor:
        """q (B, m, D), k and v (B, n, D) → (B, m, out). `sources`: what q, k and v are made of; see `linear`."""
        heads = self._project((q, k, v), sources)
        return linear(attention(*heads, backend=self.backend).flatten(2), self.proj)

    def with_weights(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the attention that gave it, averaged over heads: (B, m, n), in at least float32."""
        queries, keys, values = (x.transpose(1, 2) for x in self._project((q, k, v), (None, None, None)))
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
        weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
        mixed = (weights.to(values.dtype) @ values).transpose(1, 2)
        return linear(mixed.flatten(2), self.proj), weights.mean(1)

    def _project(self, rows: tuple[Tensor, ...], sources: tuple[Source | None, ...]) -> list[Tensor]:
        """Queries, keys and values (B, ·, heads, head_dim)."""
        layers = (self.q, self.q_bias), (self.k, self.k_bias), (self.v, self.v_bias)
        return [
            linear(x, layer, bias=bias, source=source).unflatten(2, (self.heads, -1))
            for x, (layer, bias), source in zip(rows, layers, sources, strict=True)
        ]


class AttentionPool(nn.Module):
    """Attention of the mean token to all tokens.

        pool(x) = proj(attention(norm1_q(mean_n x) W_q + q_bias, norm1_k(x) W_k + k_bias, norm1_v(x) W_v + v_bias))

    Args:
        config: the model: D, and how it computes.
        heads: attention heads; they divide D.
        out: width of the row.

    References:
        `AttentionPoolingBlock`, OpenGVLab/InternVideo, InternVideo2/single_modality/models/internvideo2_pretrain.py.
    """

    def __init__(self, config: ClipConfig, heads: int, out: int) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.norm1_q = LayerNorm(dim, POOL_EPS, config.elementwise)
        self.norm1_k = LayerNorm(dim, POOL_EPS, config.elementwise)
        self.norm1_v = LayerNorm(dim, POOL_EPS, config.elementwise)
        self.cross_attn = CrossAttention(dim, heads, out, config.attention)
        self.recompute = config.recompute

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, D) → (B, out)."""
        rows, sources = self._norm(x)
        return self.cross_attn(*rows, sources).squeeze(1)

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the attention of the mean token, averaged over heads: (B, n), in at least float32."""
        pooled, weights = self.cross_attn.with_weights(*self._norm(x)[0])
        return pooled.squeeze(1), weights.squeeze(1)

    def _norm(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Source | None, ...]]:
        """What queries, keys and values are made of, and what that is made of."""
        inputs = (x.mean(1, keepdim=True), self.norm1_q), (x, self.norm1_k), (x, self.norm1_v)
        normed = [add_norm(rows, None, norm)[1:] for rows, norm in inputs]
        rows = tuple(y for y, _ in normed)
        sources = tuple(None if self.recompute == "never" else source for _, source in normed)
        return rows, sources
