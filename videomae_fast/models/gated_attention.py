"""Flamingo's attention and MLP, and the gated cross-attention that lets a frozen language model read a video."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear


class AttentionToRows(nn.Module):
    """Attention of some rows to others, without biases, whose projections have Flamingo's names.

    Args:
        dim: width of the rows that ask, and of the result.
        source_dim: width of the rows that are read.
        heads: attention heads.
        head_dim: width of a head; it need not divide `dim`.
    """

    def __init__(self, dim: int, source_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, heads * head_dim, bias=False)
        self.to_kv = Linear(source_dim, 2 * heads * head_dim, bias=False)
        self.to_out = Linear(heads * head_dim, dim, bias=False)

    def attend(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, m, dim), source (B, n, source_dim), mask (B, n) bool, True for rows that are read → (B, m, dim)."""
        q = linear(x, self.to_q).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = linear(source, self.to_kv).unflatten(2, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        keys = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return linear(mixed.transpose(1, 2).flatten(2), self.to_out)


class _NormedAttention(AttentionToRows):
    def __init__(self, dim: int, source_dim: int, heads: int, head_dim: int) -> None:
        super().__init__(dim, source_dim, heads, head_dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return self.attend(self.norm(x), source)


class FeedForward(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear, without biases.

    Args:
        dim: of the rows.
        ratio: of hidden units to `dim`.
    """

    def __init__(self, dim: int, ratio: int = 4) -> None:
        layers = (
            nn.LayerNorm(dim),
            Linear(dim, ratio * dim, bias=False),
            nn.GELU(),
            Linear(ratio * dim, dim, bias=False),
        )
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        norm, first, gelu, second = self
        return linear(gelu(linear(norm(x), first)), second)


class GatedCrossAttention(nn.Module):
    """A block before a layer of a language model, which adds nothing at first.

        x ← x + tanh(attn_gate) · attention(norm(x), source);    x ← x + tanh(ff_gate) · ff(x)

    Both gates start at 0. Names are OpenFlamingo's. It computes in the dtype of its parameters, or that of autocast,
    and returns that of x.

    Args:
        dim: width of the language model.
        source_dim: width of the video's rows.
        heads: attention heads.
        head_dim: width of a head.

    References:
        Alayrac et al., Flamingo, arXiv 2204.14198, section 2.2 and figure 4; `GatedCrossAttentionBlock` of
        mlfoundations/open_flamingo, open_flamingo/src/helpers.py.
    """

    def __init__(self, dim: int, source_dim: int, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        self.attn = _NormedAttention(dim, source_dim, heads, head_dim)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = FeedForward(dim)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, L, dim) and source (B, Q, source_dim) → (B, L, dim)."""
        dtype = self.attn_gate.dtype
        rows = x.to(dtype)
        rows = rows + self.attn_gate.tanh() * self.attn(rows, source.to(dtype))
        rows = rows + self.ff_gate.tanh() * self.ff(rows)
        return rows.to(x.dtype)


class CrossAttentionLayers(nn.ModuleList):
    """Gated cross-attention before each layer of a language model, which itself keeps its modules and names.

    Args:
        layers: the layers of the language model; a hook on each calls a block of this list.
        dim: width of the language model.
        source_dim: width of the video's rows.
        heads: attention heads of a block.
        head_dim: width of a head.
    """

    def __init__(self, layers: nn.ModuleList, dim: int, source_dim: int, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__(GatedCrossAttention(dim, source_dim, heads, head_dim) for _ in layers)
        self.settings = {"heads": heads, "head_dim": head_dim}
        self._source: Tensor | None = None
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(_Hook(self, number), with_kwargs=True)

    @contextmanager
    def reading(self, source: Tensor) -> Iterator[None]:
        """Within the block, layers of the language model read `source` (B, Q, source_dim); elsewhere they read nothing.

        A language model whose batch is a multiple of B, as in beam search, reads each row of `source` for as many of
        its rows in succession.
        """
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def read(self, number: int, x: Tensor) -> Tensor:
        """x (B, L, dim), what layer `number` is called with, after its block; x itself where there is no source."""
        if self._source is None:
            return x
        source = self._source
        if len(x) != len(source):
            source = source.repeat_interleave(len(x) // len(source), 0)
        found: Tensor = self[number](x, source)
        return found


class _Hook:
    """A module's copy has a hook that belongs to the copy, because this is no closure."""

    def __init__(self, owner: CrossAttentionLayers, number: int) -> None:
        self.owner, self.number = owner, number

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (self.owner.read(self.number, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.owner.read(self.number, kwargs["hidden_states"])}
