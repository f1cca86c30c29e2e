"""The video vision transformer: positions, patch embedding, encoder.

Parameters have the names of the published VideoMAE V2 checkpoints (models/modeling_finetune.py and
modeling_pretrain.py), so a state_dict is a published checkpoint.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videomae_kernels import CroppedClips, embed_tokens

from .attention import check_backend
from .config import VideoMAEConfig
from .layers import Block
from .norms import add_branch

Clip = Tensor | CroppedClips
ChannelStats = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) of each channel


def sinusoid_table(num_tokens: int, width: int) -> Tensor:
    """The fixed position table of the published code, computed in float64.

        table[n, j] = sin(n / 10000^(2·⌊j/2⌋ / width)) for even j, cos(…) for odd j

    Args:
        num_tokens: N, rows; row n belongs to token n in (t, h, w) order.
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
    """A module with the computed table `position` (N, width), which checkpoints leave out.

    A module built on the device "meta" fills its table when it gets memory (`to_empty`), because no checkpoint does.
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
    """An nn.Conv3d, with its parameters, names and initialisation, that computes the listed tokens only."""

    def forward(  # type: ignore[override]
        self, clip: Clip, index: Tensor, position: Tensor, normalize: ChannelStats | None
    ) -> Tensor:
        """Call `videomae_kernels.embed_tokens` with the parameters of this module."""
        assert self.bias is not None
        return embed_tokens(clip, index, self.weight, self.bias, position, normalize=normalize)


class PatchEmbedding(nn.Module):
    """Linear embedding of τ×p×p pixel tubes, computed for listed tokens only."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.proj = TokenConv3d(config.in_channels, config.encoder_dim, config.patch, stride=config.patch)
        self.pixel_stats = config.pixel_mean, config.pixel_std
        self.recompute = config.recompute

    def forward(self, clip: Clip, index: Tensor, position: Tensor) -> Tensor:
        """Embed tokens and add their positions; unless `recompute` is "never", backward gathers the pixels again.

        Args:
            clip: (B, C, T, H, W), any strides; uint8, which this normalises, or floating and normalised. Or
                CroppedClips.
            index: (B, K) int32 or int64 tokens, unique per sample.
            position: (N, D) positions of all tokens.

        Returns:
            (B, K, D).
        """
        normalize = self.pixel_stats if clip.dtype == torch.uint8 else None
        if self.recompute == "never":
            return self.proj(clip, index, position, normalize)
        keep = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
        return keep(self.proj, clip, index, position, normalize)


def make_blocks(config: VideoMAEConfig, dim: int, depth: int, heads: int, first_layer: int = 0) -> nn.ModuleList:
    """Make the blocks of an encoder or decoder. Stochastic depth rises: block i has the rate drop_path·i / (depth − 1).

    Args:
        config: the configuration of the model.
        dim: width of the blocks.
        depth: number of blocks.
        heads: attention heads.
        first_layer: number of blocks of the model before these.

    Returns:
        `depth` blocks, in order.

    Raises:
        ValueError: no attention backend is called `config.attention`.
        ImportError: the package of the backend is missing or broken; see `check_backend`.
    """
    check_backend(config.attention)
    return nn.ModuleList(
        Block(
            dim,
            heads,
            int(dim * config.mlp_ratio),
            backend=config.attention,
            eps=config.norm_eps,
            elementwise=config.elementwise,
            drop_path=config.drop_path * i / max(depth - 1, 1),
            layer=first_layer + i,
            recompute=config.recompute,
            activation_checkpointing=config.activation_checkpointing,
        )
        for i in range(depth)
    )


def init_transformer(module: nn.Module) -> None:
    """Initialise a module as the published encoder and decoder: Xavier-uniform Linear weights, zero biases."""
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

    def forward(self, clip: Clip, visible: Tensor) -> Tensor:
        """Features of the visible tokens.

        Args:
            clip: (B, C, T, H, W), any strides; uint8, or floating and normalised. Or CroppedClips.
            visible: (B, V) int32 or int64 tokens, unique per sample.

        Returns:
            (B, V, D), after the last norm.

        Raises:
            ValueError: sizes do not fit the model; the message names the argument.
            TypeError: the clip is neither uint8 nor floating.
        """
        x, branch = self.patch_embed(clip, visible, self.position), None
        for block in self.blocks:
            x, branch = block(x, branch)
        return self.norm(add_branch(x, branch))
