"""The video vision transformer: clips, patch embedding, blocks, encoder.

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
from .config import ClipConfig, VideoMAEConfig
from .layers import Block
from .norms import add_branch
from .positions import FixedPositions

Clip = Tensor | CroppedClips
ChannelStats = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) of each channel
DIMENSIONS = "BCTHW"


def open_clip(clip: Clip, config: ClipConfig, layout: str) -> Clip:
    """`view_clip` of the size that a model was built for."""
    return view_clip(clip, (config.num_frames, *config.image_size), layout)


def view_clip(clip: Clip, size: tuple[int, int, int], layout: str) -> Clip:
    """Check the size of a clip, and return it as a view (B, C, T, H, W).

    Args:
        clip: five dimensions in the order of `layout`, any strides. Or CroppedClips, which have no layout.
        size: (T, H, W) that a model was built for.
        layout: a permutation of "BCTHW".

    Returns:
        The clip; CroppedClips as they are.

    Raises:
        ValueError: the clip has another size, or the layout is wrong; the message names what came.
    """
    if sorted(layout) != sorted(DIMENSIONS):
        raise ValueError(f"layout must be a permutation of '{DIMENSIONS}' such as 'BTHWC', got '{layout}'")
    shape = tuple(clip.shape)
    if isinstance(clip, CroppedClips):
        layout = DIMENSIONS
    elif clip.ndim != 5:
        raise ValueError(f"clip must have 5 dimensions ({layout}), got shape {shape}")
    else:
        clip = clip.permute([layout.index(dimension) for dimension in DIMENSIONS])
    for name, value, came in zip("THW", size, clip.shape[2:], strict=True):
        if came != value:
            raise ValueError(f"clip must have {name}={value} as the model was built for, got {shape} as {layout}")
    return clip


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

    def __init__(self, config: ClipConfig) -> None:
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


def make_blocks(
    config: ClipConfig, dim: int, depth: int, heads: int, first_layer: int = 0, **options: Any
) -> nn.ModuleList:
    """Make the blocks of an encoder or decoder. Stochastic depth rises: block i has the rate drop_path·i / (depth − 1).

    Args:
        config: the configuration of the model.
        dim: width of the blocks.
        depth: number of blocks.
        heads: attention heads.
        first_layer: number of blocks of the model before these.
        **options: further arguments of `Block`.

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
            **options,
        )
        for i in range(depth)
    )


def init_transformer(module: nn.Module) -> None:
    """Initialise a module as the published encoder and decoder: Xavier-uniform Linear weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_small_linear(module: nn.Module) -> None:
    """Initialise a module as published fine-tuning and InternVideo2: Linear weights of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(FixedPositions):
    """Embeds the visible tokens and runs the blocks on them alone.

    Args:
        config: the model; its decoder fields are not used.
        table: computes the table of positions; None is the sinusoid of the grid of `config`.
    """

    _no_split_modules = ("Block",)  # transformers' name for units of FSDP2

    def __init__(self, config: VideoMAEConfig, table: Callable[[], Tensor] | None = None) -> None:
        super().__init__(config.num_tokens, config.encoder_dim, table)
        self.config = config
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

    def tokens(self, clip: Clip, layout: str = DIMENSIONS) -> Tensor:
        """Features of all tokens of whole clips.

        Args:
            clip: as `open_clip` takes it, of the size the model was built for.
            layout: a permutation of "BCTHW".

        Returns:
            (B, N, D) in (t, h, w) order, after the last norm.

        Raises:
            ValueError: the clip has another size, or the layout is wrong.
            TypeError: the clip is neither uint8 nor floating.
        """
        clip = open_clip(clip, self.config, layout)
        return self(clip, every_token(clip, self.config))

    def features(self, clip: Clip, layout: str = DIMENSIONS) -> Tensor:
        """The mean of `tokens`: (B, D)."""
        return self.tokens(clip, layout).mean(1)

    @property
    def feature_dim(self) -> int:
        """The width of `features`: D."""
        return self.config.encoder_dim


def every_token(clip: Clip, config: ClipConfig) -> Tensor:
    """The index (B, N) int64 of all tokens of each clip."""
    return torch.arange(config.num_tokens, device=clip.device).expand(clip.shape[0], -1)
