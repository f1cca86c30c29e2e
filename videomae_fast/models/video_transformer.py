"""The video tower of LongViViT: a vision transformer of joint attention over space and time, for clips and images.

Its blocks, their names and their mathematics are those of VideoMAE's encoder, so that its weights load. Positions are
learned, and images have a convolution of their own.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .attention_pool import AttentionPool
from .config import VideoMAEConfig
from .encoder import Clip, PatchEmbedding, init_transformer, make_blocks
from .positions import sinusoid_table
from .video_tower import VideoTower, check_pool, image_config_of, zero_gradient


class VideoTransformer(VideoTower):
    """A video tower of VideoMAE's blocks.

        tokens = norm(blocks(patch_embed(clip) + pos_embed))      pooled = mean(tokens)   or   clip_projector(tokens)

    An image has the kernel `image_embed` and the mean of the positions over time. In a new tower this kernel is the sum
    over a tubelet of that of clips.

    Args:
        config: the model; its decoder fields are not used. Any number of frames and any size, also non-square.
        pool: "mean" of the visible tokens, or "attention", the pool of InternVideo2, with the encoder's heads.
        learn_positions: whether `pos_embed`, which starts as VideoMAE's sinusoid of these clips, is trained. Weights of
            other clips have it interpolated either way.

    Attributes:
        undecayed: last parts of the names of parameters that have no weight decay, besides vectors.

    Raises:
        ValueError: POOLS has no such pooling.

    References:
        A Simple Recipe for Contrastively Pre-training Video-First Encoders Beyond 16 Frames (LongViViT), arXiv
        2312.07395, section 3: joint attention, tubelets, separate convolutions for images and clips, learned positions.
    """

    first_parts = ("patch_embed", "image_embed", "pos_embed")
    head_parts = ("norm", "clip_projector")
    undecayed: ClassVar[tuple[str, ...]] = ("pos_embed",)

    def __init__(self, config: VideoMAEConfig, *, pool: str = "mean", learn_positions: bool = True) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.config = config
        self.image_config: Any = image_config_of(config)
        self.token_dim = self.feature_dim = dim
        self.learn_positions = learn_positions
        self.patch_embed = PatchEmbedding(config)
        self.image_embed = PatchEmbedding(self.image_config)
        self.pos_embed = nn.Parameter(sinusoid_table(config.num_tokens, dim)[None], requires_grad=learn_positions)
        self.blocks = make_blocks(config, dim, config.encoder_depth, config.encoder_heads)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        has_pool = check_pool(pool) == "attention"
        self.clip_projector = AttentionPool(config, config.encoder_heads, dim) if has_pool else None
        self.apply(init_transformer)
        with torch.no_grad():
            # So a still clip is embedded as its image. A kernel of images, repeated over time, would do this, too, but
            # it averages the frames of a tubelet: from scratch, motion is then learned late or not at all.
            self.image_embed.proj.weight.copy_(self.patch_embed.proj.weight.sum(2, keepdim=True))
            self.image_embed.proj.load_state_dict({"bias": self.patch_embed.proj.bias}, strict=False)

    def freeze(self, train: str) -> None:
        """As `ClassifierParts.freeze`; positions that are not learned stay as they are."""
        super().freeze(train)
        self.pos_embed.requires_grad_(train == "all" and self.learn_positions)

    def _embed(self, clip: Clip, visible: Tensor, image: bool) -> Tensor:
        table = self.pos_embed[0]
        if image:
            table = table.unflatten(0, (self.config.grid[0], -1)).mean(0)
        used, unused = (self.image_embed, self.patch_embed) if image else (self.patch_embed, self.image_embed)
        embedded: Tensor = used(clip, visible, zero_gradient(table, *unused.parameters()))
        return embedded

    def _normalise(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.clip_projector is None:
            return tokens.mean(1)
        pooled: Tensor = self.clip_projector(tokens)
        return pooled
