"""The video vision transformer: positions, patch embedding, encoder.

Parameter names are those of the published VideoMAE V2 checkpoints (models/modeling_finetune.py and
modeling_pretrain.py), so a state_dict is a published checkpoint.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from videomae_kernels import CroppedClips, embed_tokens

from .config import VideoMAEConfig
from .layers import Block, recompute

ChannelStats = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) of each channel


def sinusoid_table(num_tokens: int, width: int) -> Tensor:
    """The fixed positions of the published code, computed in float64.

        table[n, j] = sin(n / 10000^(2·⌊j/2⌋ / width)) for even j, cos(…) for odd j

    Args:
        num_tokens: N; a position is the flat number of a token.
        width: columns.

    Returns:
        (num_tokens, width) float32.

    References:
        `get_sinusoid_encoding_table`, VideoMAE V2, models/modeling_finetune.py.
    """
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class FixedPositions(nn.Module):
    """A module with the table `position` (N, width), which is computed and is in no checkpoint.

    A model built on the device "meta" gets its tables when it gets memory (`to_empty`): nobody else would fill them.
    """

    position: Tensor

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.register_buffer("position", sinusoid_table(num_tokens, width), persistent=False)

    def init_positions(self) -> None:
        """Fill the table, in place, with `sinusoid_table`."""
        self.position.copy_(sinusoid_table(*self.position.shape))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "FixedPositions":
        had_no_memory = self.position.is_meta
        super()._apply(fn, recurse)
        if had_no_memory and not self.position.is_meta and "position" in self._buffers:
            self.init_positions()
        return self


class TokenConv3d(nn.Conv3d):
    """A Conv3d, with its parameters, names and initialisation, that is computed where tokens are listed only."""

    def forward(  # type: ignore[override]
        self, clip: Tensor | CroppedClips, index: Tensor, position: Tensor, normalize: ChannelStats | None
    ) -> Tensor:
        """`videomae_kernels.embed_tokens` with the parameters of this module."""
        assert self.bias is not None
        return embed_tokens(clip, index, self.weight, self.bias, position, normalize=normalize)


class PatchEmbedding(nn.Module):
    """Linear embedding of τ×p×p pixel tubes, computed for listed tokens only."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.proj = TokenConv3d(config.in_channels, config.encoder_dim, config.patch, stride=config.patch)
        self.pixel_stats = config.pixel_mean, config.pixel_std
        self.recompute = config.recompute

    def forward(self, clip: Tensor | CroppedClips, index: Tensor, position: Tensor) -> Tensor:
        """Embed tokens and add their positions; pixels are gathered again in backward.

        Args:
            clip: (B, C, T, H, W), any strides; uint8, which is normalised on the way, or floating and normalised. Or
                CroppedClips.
            index: (B, K) int32 or int64 tokens, unique per sample.
            position: (N, D) of all tokens.

        Returns:
            (B, K, D).
        """
        normalize = self.pixel_stats if clip.dtype == torch.uint8 else None
        return recompute(lambda clip: self.proj(clip, index, position, normalize), clip, self.recompute)


def make_blocks(config: VideoMAEConfig, dim: int, depth: int, heads: int, first_layer: int = 0) -> nn.ModuleList:
    """Blocks of VideoMAE V2, whose stochastic depth rises linearly: block i has the rate drop_path·i / (depth − 1).

    Args:
        config: of the model.
        dim: D.
        depth: number of blocks.
        heads: attention heads.
        first_layer: how many blocks of the model come before.

    Returns:
        `depth` blocks, in order.
    """
    return nn.ModuleList(
        Block(
            dim,
            heads,
            int(dim * config.mlp_ratio),
            backend=config.attention,
            eps=config.norm_eps,
            drop_path=config.drop_path * i / max(depth - 1, 1),
            layer=first_layer + i,
            recompute=config.recompute,
            activation_checkpointing=config.activation_checkpointing,
        )
        for i in range(depth)
    )


def init_transformer(module: nn.Module) -> None:
    """The published initialisation of encoder and decoder: Xavier-uniform Linear weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(FixedPositions):
    """Embeds the visible tokens and runs the blocks on them alone."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__(config.num_tokens, config.encoder_dim)
        self.patch_embed = PatchEmbedding(config)
        self.blocks = make_blocks(config, config.encoder_dim, config.encoder_depth, config.encoder_heads)
        self.norm = nn.LayerNorm(config.encoder_dim, eps=config.norm_eps)
        self.apply(init_transformer)

    def forward(self, clip: Tensor | CroppedClips, visible: Tensor) -> Tensor:
        """Features of the visible tokens.

        Args:
            clip: (B, C, T, H, W), any strides; uint8, or floating and normalised. Or CroppedClips.
            visible: (B, V) int32 or int64 tokens, unique per sample.

        Returns:
            (B, V, D), after the last norm.

        Raises:
            ValueError: sizes that do not fit the model; the message names the argument.
            TypeError: a clip of another dtype.
        """
        x = self.patch_embed(clip, visible, self.position)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
