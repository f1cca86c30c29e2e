"""The published VideoMAE V2 model in plain PyTorch: what exactness tests and speed figures compare with.

The mathematics, the order of the operations and the parameter names follow the VideoMAE V2 release
(https://github.com/OpenGVLab/VideoMAEv2; the paper is arXiv 2303.16727), and so are its costs: every token
is embedded before nine tenths are dropped, positions are plain CPU tensors moved at every step, tokens are
selected by boolean masks. Nothing is slower than it was published. Drop path, dropout, LayerScale and
cosine attention, which the published pre-training leaves off, are absent.
"""

from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


@cache
def sinusoid_table(num_tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The table (1, N, dim), made in float64: sin (even j) or cos (odd j) of n / 10000^(2*(j//2)/dim)."""
    position, column = np.arange(num_tokens)[:, None], np.arange(dim)[None]
    angle = position / np.power(10000.0, 2 * (column // 2) / dim)
    return torch.from_numpy(np.where(column % 2 == 0, np.sin(angle), np.cos(angle))[None]).to(dtype)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, attention: str) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.attention == "sdpa":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, length, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, attention: str) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads, attention)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, image_size: tuple[int, int], patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.proj = nn.Conv3d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, clip: Tensor) -> Tensor:
        if tuple(clip.shape[-2:]) != self.image_size:
            raise ValueError(f"clip has {tuple(clip.shape[-2:])} pixels, the model is for {self.image_size}")
        return self.proj(clip).flatten(2).transpose(1, 2)


class _Blocks(nn.Module):
    """What encoder and decoder share: blocks, checkpointed one by one if asked, and the published init."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float, attention: str, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, attention) for _ in range(depth))
        self.norm = LayerNorm(dim)

    def init_linear(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def run_blocks(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return x


class Encoder(_Blocks):
    def __init__(
        self, image_size: tuple[int, int], patch: tuple[int, int, int], num_tokens: int, dim: int, *rest: Any
    ) -> None:
        super().__init__(dim, *rest)
        self.patch_embed = PatchEmbed(dim, image_size, patch)
        self.pos_embed = sinusoid_table(num_tokens, dim)
        self.init_linear()

    def forward(self, clip: Tensor, mask: Tensor) -> Tensor:
        x = self.patch_embed(clip)
        x = x + _table_like(self.pos_embed, x).to(x.device).clone().detach()
        x = x[~mask].reshape(x.shape[0], -1, x.shape[-1])
        return self.norm(self.run_blocks(x))


class Decoder(_Blocks):
    def __init__(self, num_values: int, dim: int, *rest: Any) -> None:
        super().__init__(dim, *rest)
        self.head = nn.Linear(dim, num_values)
        self.init_linear()

    def forward(self, x: Tensor, num_predictions: int) -> Tensor:
        return self.head(self.norm(self.run_blocks(x)[:, -num_predictions:]))


class PublishedVideoMAE(nn.Module):
    """VideoMAE V2 for pre-training; `state_dict()` has the names and shapes of the published checkpoints.

    forward(clip, mask, decode_mask) -> (B, M, P): clip (B, 3, T, H, W) normalised with ImageNet's mean, std;
    mask (B, N) bool, True = hidden from the encoder; decode_mask (B, N) bool, True = not decoded; the same
    count in every row. `attention` is "eager" (as published) or "sdpa"; `checkpointing` recomputes each
    block in the backward pass, as the published scripts do for ViT-H and ViT-g.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        num_frames: int = 16,
        tubelet_size: int = 2,
        patch_size: int = 16,
        encoder_dim: int,
        encoder_depth: int,
        encoder_heads: int,
        mlp_ratio: float = 4.0,
        decoder_dim: int,
        decoder_depth: int = 4,
        decoder_heads: int,
        attention: str = "eager",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ("eager", "sdpa"):
            raise ValueError(f"attention is {attention!r}; allowed: 'eager', 'sdpa'")
        patch = (tubelet_size, patch_size, patch_size)
        tokens = (num_frames // tubelet_size) * (image_size[0] // patch_size) * (image_size[1] // patch_size)
        encoder = (encoder_dim, encoder_depth, encoder_heads, mlp_ratio, attention, checkpointing)
        decoder = (decoder_dim, decoder_depth, decoder_heads, mlp_ratio, attention, checkpointing)
        self.encoder = Encoder(image_size, patch, tokens, *encoder)
        self.decoder = Decoder(3 * tubelet_size * patch_size**2, *decoder)
        # Outside the two classes that the published init walks over: keeps PyTorch's default.
        self.encoder_to_decoder = nn.Linear(encoder_dim, decoder_dim, bias=False)
        self.pos_embed = sinusoid_table(tokens, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "PublishedVideoMAE":
        """The published model of the sizes in a VideoMAEConfig; `options` are attention and checkpointing."""
        names = ["image_size", "num_frames", "tubelet_size", "patch_size", "mlp_ratio"]
        names += [f"{part}_{size}" for part in ("encoder", "decoder") for size in ("dim", "depth", "heads")]
        return cls(**{name: getattr(config, name) for name in names}, **options)

    def forward(self, clip: Tensor, mask: Tensor, decode_mask: Tensor) -> Tensor:
        x = self.encoder_to_decoder(self.encoder(clip, mask))
        batch, _, dim = x.shape
        table = _table_like(self.pos_embed.expand(batch, -1, -1), clip).to(clip.device).clone().detach()
        visible = table[~mask].reshape(batch, -1, dim)
        decoded = table[~decode_mask].reshape(batch, -1, dim)
        x = torch.cat([x + visible, self.mask_token + decoded], dim=1)
        return self.decoder(x, decoded.shape[1])


def _table_like(table: Tensor, x: Tensor) -> Tensor:
    # The published table is float32; a float64 model, which only tests use, gets the unrounded one.
    if x.dtype == torch.float64:
        return sinusoid_table(*table.shape[-2:], torch.float64).expand_as(table)
    return table.type_as(x)
