"""A dual encoder of long videos as people write it: the plain form of LongViViT, which has no public code.

From the facts of the paper (arXiv 2312.07395, section 3): tubelets, convolutions of their own for images and clips,
learned positions, joint attention of space and time, random masking, means of the tokens, CLIP's loss. What the paper
leaves open is written as the published codes of masked transformers write it: clips are normalised float32, all tokens
are embedded before a boolean mask drops some, and the logits of all pairs are there at once. Attention is PyTorch's
fused one, and the residual stream has autocast's precision, so nothing is slower or larger than people have it.

The blocks are those of the published VideoMAE V2. It shares nothing with our models but the names of parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.baselines.published.model import Block, LayerNorm, PatchEmbed


def full_clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """open_clip's: the whole matrix in the precision of the features, and a cross-entropy of its rows and columns."""
    logits = scale.to(x.dtype) * x @ y.T
    labels = torch.arange(len(x), device=x.device)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (F.cross_entropy(logits.to(wide), labels) + F.cross_entropy(logits.T.to(wide), labels)) / 2


class NaiveVideoEncoder(nn.Module):
    """forward(clip, hidden=None) -> (B, D), the mean of the tokens.

    clip (B, 3, T, H, W) is normalised, and an image has T = 1; hidden (B, N) bool, True = dropped, the same count in
    every row; None drops nothing.

    Args:
        grid: (T', H', W') tokens of a clip.
        patch: (frames, height, width) of a token.
        dim, depth, heads, mlp_ratio: of the blocks.
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
    ) -> None:
        super().__init__()
        frames, height, width = grid
        sides = height * patch[1], width * patch[2]
        self.frames = frames
        self.patch_embed = PatchEmbed(dim, sides, patch)
        self.image_embed = PatchEmbed(dim, sides, (1, *patch[1:]))
        self.pos_embed = nn.Parameter(torch.zeros(1, frames * height * width, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, "sdpa") for _ in range(depth))
        self.norm = LayerNorm(dim)

    def forward(self, clip: Tensor, hidden: Tensor | None = None) -> Tensor:
        if clip.shape[2] == 1:
            x, position = self.image_embed(clip), self.pos_embed.unflatten(1, (self.frames, -1)).mean(1)
        else:
            x, position = self.patch_embed(clip), self.pos_embed
        x = x + position.type_as(x)
        if hidden is not None:
            x = x[~hidden].reshape(x.shape[0], -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)

    def freeze_before(self, last: int) -> None:
        """Train the last blocks and the norm after them: what is before them needs no gradient."""
        for part in (self.patch_embed, self.image_embed, *self.blocks[:-last]):
            part.requires_grad_(False)
        self.pos_embed.requires_grad_(False)


class MeanText(nn.Module):
    """A text encoder of transformers, and the mean of the tokens that are no padding: (B, L) -> (B, H)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class NaiveDualEncoder(nn.Module):
    """forward(clip, ids, mask, hidden=None) -> CLIP's loss of B clips and captions.

    clip and hidden as NaiveVideoEncoder; ids (B, L) int64, mask (B, L) int64: 1 for tokens, 0 for padding.

    Args:
        video: the video encoder, of width D.
        text: a text encoder of transformers, of width H.
        dim: D.
        embed_dim: width of the space of both.
    """

    def __init__(self, video: NaiveVideoEncoder, text: nn.Module, dim: int, embed_dim: int) -> None:
        super().__init__()
        config: Any = text.config
        self.vision_encoder = video
        self.text_encoder = MeanText(text)
        self.vision_proj = nn.Linear(dim, embed_dim)
        self.text_proj = nn.Linear(config.hidden_size, embed_dim)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def from_config(cls, config: Any, text: nn.Module, weights: Mapping[str, Tensor]) -> "NaiveDualEncoder":
        """Of the sizes in a VideoMAEConfig, with the weights of our dual encoder."""
        dim = config.encoder_dim
        video = NaiveVideoEncoder(
            config.grid,
            config.patch,
            dim=dim,
            depth=config.encoder_depth,
            heads=config.encoder_heads,
            mlp_ratio=config.mlp_ratio,
        )
        model = cls(video, text, dim, weights["vision_proj.weight"].shape[0])
        model.load_state_dict(weights)
        return model

    def forward(self, clip: Tensor, ids: Tensor, mask: Tensor, hidden: Tensor | None = None) -> Tensor:
        video = F.normalize(self.vision_proj(self.vision_encoder(clip, hidden)), dim=-1)
        text = F.normalize(self.text_proj(self.text_encoder(ids, mask)), dim=-1)
        return full_clip_loss(video, text, self.logit_scale.exp())
