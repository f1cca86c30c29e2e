"""The parts of InternVideo2's encoder in plain PyTorch.

The mathematics and the parameter names are the published ones. Fused attention, RMSNorm and the reduction of a norm are
PyTorch's; the release takes flash-attn's, so nothing here is slower than it was published. Its attention pooling is not
fused there, nor here.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

POOL_EPS = 1e-5  # of the LayerNorms of pooling, heads and classifier
RMS_EPS = 1e-6


def position_table(grid: tuple[int, int, int], dim: int, cls_token: bool) -> Tensor:
    """Sines and cosines (1, N, dim) of a grid (T', H', W'), float64, with a row of zeros in front for a cls token.

    The first dim/4 columns are of t, the next 3·dim/8 of w, the last 3·dim/8 of h. Each group of c columns is
    [sin(p·ω_0), …, cos(p·ω_0), …] with ω_i = 10000^(−2i/c).
    """
    if dim % 16:
        raise ValueError(f"dim must be a multiple of 16, got {dim}")
    t, h, w = np.meshgrid(*(np.arange(size) for size in grid), indexing="ij")
    parts = [_sines(t, dim // 4), _sines(w, dim * 3 // 8), _sines(h, dim * 3 // 8)]
    table = np.concatenate(parts, axis=1)
    if cls_token:
        table = np.concatenate([np.zeros((1, dim)), table])
    return torch.from_numpy(table)[None]


def _sines(position: np.ndarray, columns: int) -> np.ndarray:
    omega = 10000.0 ** (-2.0 * np.arange(columns // 2) / columns)
    angle = position.reshape(-1, 1) * omega
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


class LayerScale(nn.Module):
    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) * self.gamma.to(wide)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = nn.RMSNorm(dim, eps=RMS_EPS)
        self.k_norm = nn.RMSNorm(dim, eps=RMS_EPS)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        parts = (self.q_norm(q).type_as(v), self.k_norm(k).type_as(v), v)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, layer_scale: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=RMS_EPS)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.RMSNorm(dim, eps=RMS_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale)
        self.rate = drop_path

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        first, second = (None, None) if keep is None else keep
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))), first)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), second)

    def drop_path(self, branch: Tensor, keep: Tensor | None) -> Tensor:
        """A branch of the samples that `keep` (B,) says, or that are drawn, scaled by 1 / (1 - rate)."""
        if self.rate == 0 or not self.training:
            return branch
        shape = (branch.shape[0], 1, 1)
        kept = torch.rand(shape, device=branch.device) >= self.rate if keep is None else keep.view(shape)
        return branch.div(1 - self.rate) * kept.to(branch.dtype)


class CrossAttention(nn.Module):
    """Attention of separate queries, keys and values that also returns its weights, the mean of all heads."""

    def __init__(self, dim: int, heads: int, out_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in "qkv")
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(dim)) for _ in "qkv")
        self.proj = nn.Linear(dim, out_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q = F.linear(q, self.q.weight, self.q_bias)
        k = F.linear(k, self.k.weight, self.k_bias)
        v = F.linear(v, self.v.weight, self.v_bias)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights.mean(1)


class AttentionPool(nn.Module):
    """(B, n, D) → (B, out_dim), and the weights (B, n) of the tokens. The query is the mean of the tokens."""

    def __init__(self, dim: int, heads: int, out_dim: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(dim, eps=POOL_EPS) for _ in "qkv")
        self.cross_attn = CrossAttention(dim, heads, out_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(1, keepdim=True)
        pooled, weights = self.cross_attn(self.norm1_q(mean), self.norm1_k(x), self.norm1_v(x))
        return pooled[:, 0], weights[:, 0]


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, clip: Tensor) -> Tensor:
        return self.proj(clip).flatten(2).transpose(1, 2)


class Trunk(nn.Module):
    """What student, classifier and teachers share: embedding of all tokens behind a cls token, blocks, pooling.

    Args:
        grid: (T', H', W') tokens.
        patch: (frames, height, width) of a token.
        dim, depth, heads, mlp_ratio, layer_scale, drop_path: of the blocks.
        pool_heads, pool_dim: heads and outputs of the pooling.
        checkpointing: repeat each block in the backward pass, as the published scripts do for all of them.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        patch: tuple[int, int, int],
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        layer_scale: float,
        pool_heads: int,
        pool_dim: int,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.checkpointing = grid, checkpointing
        self.patch_embed = PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(position_table(grid, dim, cls_token=True).to(torch.get_default_dtype()))
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, layer_scale, rate) for rate in rates)
        self.clip_projector = AttentionPool(dim, pool_heads, pool_dim)

    @staticmethod
    def sizes(config: Any) -> dict[str, Any]:
        """The arguments of a Trunk that an InternVideo2Config gives."""
        names = {"dim": "encoder_dim", "depth": "encoder_depth", "heads": "encoder_heads", "pool_dim": "clip_embed_dim"}
        same = {name: name for name in ("grid", "patch", "mlp_ratio", "layer_scale", "drop_path", "pool_heads")}
        return {name: getattr(config, field) for name, field in (names | same).items()}

    def init_weights(self) -> None:
        """The published initialisation of all Linear layers, of heads too; call it last."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, Block)
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_((2 * number) ** 0.5)

    def embed(self, clip: Tensor) -> Tensor:
        """(B, 1 + N, D): the cls token and all tokens, with positions."""
        x = self.patch_embed(clip)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed

    def run_blocks(self, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """The residual stream after each block. keep (L, 2, B) bool: the samples that keep the branches."""
        after = []
        for number, block in enumerate(self.blocks):
            kept = None if keep is None else keep[number]
            x = checkpoint(block, x, kept, use_reentrant=False) if self.checkpointing else block(x, kept)
            after.append(x)
        return after
