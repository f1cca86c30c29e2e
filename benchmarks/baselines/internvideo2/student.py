"""InternVideo2's student: all tokens embedded, the visible ones selected by a boolean mask, a head for each layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import selection
from .layers import POOL_EPS, Trunk, position_table


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1, as published: divided by their norm."""
    return x / x.norm(dim=-1, keepdim=True)


class Head(nn.Module):
    """Linear, or MLP of the input's width, then LayerNorm and unit length."""

    def __init__(self, dim: int, out_dim: int, mlp: bool) -> None:
        super().__init__()
        two = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim))
        self.head = two if mlp else nn.Linear(dim, out_dim)
        self.norm = nn.LayerNorm(out_dim, eps=POOL_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return unit(self.norm(self.head(x)))


class PublishedInternVideo2(Trunk):
    """The model of stage 1; `state_dict()` has the names and shapes of the published checkpoints.

    forward(clip, hidden, keep=None) -> (image (K, B, 1 + V, D_T), pooled (B, P), video (K, B, V, D_T)), unit vectors;
    None for heads that the model has not. clip (B, 3, T, H, W) is normalised; hidden (B, 1 + N) bool, True = hidden,
    False for the cls token, with the same count in every row; keep (L, 2, B) bool says which samples keep the branches
    of each block in training, None draws.

    Args:
        image_layers, video_layers: the blocks whose outputs image and video heads read, ascending.
        image_dim, video_dim: widths of the teachers.
        image_mlp: image heads are MLPs, as in the published distillation.
        pooled_dim: width of the teacher's pooled output; None: no such head.
        **trunk: as Trunk.
    """

    def __init__(
        self,
        *,
        image_layers: Sequence[int],
        image_dim: int,
        image_mlp: bool,
        pooled_dim: int | None,
        video_layers: Sequence[int],
        video_dim: int,
        **trunk: Any,
    ) -> None:
        super().__init__(**trunk)
        dim, pool_dim = trunk["dim"], trunk["pool_dim"]
        self.image_layers, self.video_layers = tuple(image_layers), tuple(video_layers)
        dtype = torch.get_default_dtype()
        if image_layers:
            self.clip_pos_embed = nn.Parameter(position_table(self.grid, dim, cls_token=True).to(dtype))
            self.clip_decoder = nn.ModuleList(Head(dim, image_dim, image_mlp) for _ in image_layers)
        if pooled_dim is not None:
            self.final_clip_decoder = Head(pool_dim, pooled_dim, image_mlp)
        if video_layers:
            self.mae_pos_embed = nn.Parameter(position_table(self.grid, dim, cls_token=False).to(dtype))
            self.mae_decoder = nn.ModuleList(Head(dim, video_dim, True) for _ in video_layers)
        self.has_pooled = pooled_dim is not None
        self.init_weights()

    @classmethod
    def from_config(cls, config: Any, heads: Any, checkpointing: bool = False) -> "PublishedInternVideo2":
        """The published model of the sizes in an InternVideo2Config, with the heads of an AlignmentHeads."""
        names = ("image_layers", "image_dim", "image_mlp", "pooled_dim", "video_layers", "video_dim")
        fields = {name: getattr(heads, name) for name in names}
        return cls(**fields, **cls.sizes(config), checkpointing=checkpointing)

    def forward(
        self, clip: Tensor, hidden: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        after = self.run_blocks(selection.kept_rows(self.embed(clip), hidden), keep)
        pooled, _ = self.clip_projector(after[-1])
        batch, image, video = len(clip), None, None
        if self.image_layers:
            x = torch.stack([after[layer] for layer in self.image_layers])
            position = selection.kept_rows(self.clip_pos_embed.repeat(batch, 1, 1), hidden)
            x = x + position[None].repeat(len(x), 1, 1, 1)
            image = torch.stack([head(rows) for head, rows in zip(self.clip_decoder, x, strict=True)])
        if self.video_layers:
            x = torch.stack([after[layer][:, 1:] for layer in self.video_layers])
            position = selection.kept_rows(self.mae_pos_embed.repeat(batch, 1, 1), hidden[:, 1:])
            x = x + position[None].repeat(len(x), 1, 1, 1)
            video = torch.stack([head(rows) for head, rows in zip(self.mae_decoder, x, strict=True)])
        return image, self.final_clip_decoder(pooled) if self.has_pooled else None, video
