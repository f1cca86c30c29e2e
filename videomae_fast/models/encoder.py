"""The video vision transformer: positions, patch embedding, blocks, encoder.

Parameter names are those of the published VideoMAE V2 checkpoints (models/modeling_finetune.py and
modeling_pretrain.py), so a state_dict is a published checkpoint.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videomae_kernels import CroppedClips, embed_tokens

from .attention import attention, check_backend
from .config import VideoMAEConfig


def sinusoid_table(num_tokens: int, width: int) -> Tensor:
    """(num_tokens, width) float32: sin at even, cos at odd columns of position / 10000^(2·⌊column/2⌋/width).

    The position is the flat token number (`get_sinusoid_encoding_table` of the published code); computed in float64.
    """
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


_X = TypeVar("_X")
_Y = TypeVar("_Y")


def recompute(function: Callable[[_X], _Y], x: _X) -> _Y:
    """function(x), saving nothing but x for backward. For a cheap operation followed by a linear map.

    Backward repeats the cheap operation, because the map's weight gradient needs its result, and stops before the
    last map of `function`. So normalised and activated tensors are never kept, and of all matrix products only the
    query projection of a row-restricted block is repeated.
    """
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


class PatchEmbedding(nn.Module):
    """Linear embedding of τ×p×p pixel tubes, computed for listed tokens only."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        # A Conv3d for its parameters, their names and their initialisation; it is never run.
        self.proj = nn.Conv3d(config.in_channels, config.encoder_dim, config.patch, stride=config.patch)
        self.pixel_stats = config.pixel_mean, config.pixel_std

    def forward(self, clip: Tensor | CroppedClips, index: Tensor, position: Tensor, layout: str) -> Tensor:
        """Tokens (B, K, D) at `index` (B, K); a uint8 clip is normalised on the way, a floating one already is."""
        normalize = self.pixel_stats if clip.dtype == torch.uint8 else None
        weight, bias = self.proj.weight, self.proj.bias
        assert bias is not None
        return recompute(
            lambda clip: embed_tokens(clip, index, weight, bias, position, layout=layout, normalize=normalize), clip
        )


class Attention(nn.Module):
    """Multi-head self-attention whose keys have no bias."""

    def __init__(self, dim: int, heads: int, backend: str) -> None:
        super().__init__()
        self.heads = heads
        self.backend = check_backend(backend)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, norm: nn.Module, last_rows: int | None = None) -> Tensor:
        """Attention of norm(x) (B, n, dim), or only its last `last_rows` rows, with all n rows as keys and values."""
        q, k, v = recompute(lambda x: self._project(norm(x), last_rows), x)
        return self.proj(attention(q, k, v, self.backend).flatten(2))

    def _project(self, x: Tensor, last_rows: int | None) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, rows, heads, head_dim)."""
        dim = x.shape[-1]
        k_bias = torch.zeros_like(self.v_bias)
        if last_rows is None:
            bias = torch.cat((self.q_bias, k_bias, self.v_bias))
            return F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1)).unbind(2)
        q_weight, kv_weight = self.qkv.weight.split((dim, 2 * dim))
        q = F.linear(x[:, -last_rows:], q_weight, self.q_bias).unflatten(2, (self.heads, -1))
        kv = F.linear(x, kv_weight, torch.cat((k_bias, self.v_bias)))
        return q, *kv.unflatten(2, (2, self.heads, -1)).unbind(2)


class Mlp(nn.Module):
    """Linear, GELU (erf), Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        # Half-precision GEMMs want rows of 16 bytes; ViT-g's decoder has 2234 hidden units. Zero padding is exact.
        self.padding = -hidden % 8

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The perceptron of norm(x)."""
        hidden = recompute(lambda x: self._expand(norm(x)), x)
        return recompute(lambda hidden: self._contract(F.gelu(hidden)), hidden)

    def _expand(self, x: Tensor) -> Tensor:
        if not self.padding:
            return self.fc1(x)
        pad = self.padding
        return F.linear(x, F.pad(self.fc1.weight, (0, 0, 0, pad)), F.pad(self.fc1.bias, (0, pad)))

    def _contract(self, hidden: Tensor) -> Tensor:
        if not self.padding:
            return self.fc2(hidden)
        return F.linear(hidden, F.pad(self.fc2.weight, (0, self.padding)), self.fc2.bias)


class DropPath(nn.Module):
    """Stochastic depth: drops a whole residual branch per sample."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VideoMAEConfig, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(dim, heads, config.attention)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.checkpointing = config.activation_checkpointing

    def forward(self, x: Tensor, last_rows: int | None = None) -> Tensor:
        """(B, n, dim) → (B, n, dim), or exactly its last `last_rows` rows without computing the others."""
        if self.checkpointing:
            return checkpoint(self._forward, x, last_rows, use_reentrant=False)
        return self._forward(x, last_rows)

    def _forward(self, x: Tensor, last_rows: int | None) -> Tensor:
        attended = self.attn(x, self.norm1, last_rows)
        if last_rows is not None:
            x = x[:, -last_rows:]
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(x, self.norm2))


def make_blocks(config: VideoMAEConfig, dim: int, depth: int, heads: int) -> nn.ModuleList:
    """`depth` blocks with linearly rising stochastic depth."""
    rates = [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]
    return nn.ModuleList(Block(config, dim, heads, rate) for rate in rates)


def init_transformer(module: nn.Module) -> None:
    """The published initialisation of encoder and decoder: Xavier-uniform Linear weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """Embeds the visible tokens and runs the blocks on them alone."""

    position: Tensor

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config)
        self.blocks = make_blocks(config, config.encoder_dim, config.encoder_depth, config.encoder_heads)
        self.norm = nn.LayerNorm(config.encoder_dim, eps=config.norm_eps)
        self.register_buffer("position", sinusoid_table(config.num_tokens, config.encoder_dim), persistent=False)
        self.apply(init_transformer)

    def forward(self, clip: Tensor | CroppedClips, visible: Tensor, layout: str = "BCTHW") -> Tensor:
        """Features (B, V, D) of the tokens `visible` (B, V) of a clip in the given dimension order."""
        x = self.patch_embed(clip, visible, self.position, layout)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
