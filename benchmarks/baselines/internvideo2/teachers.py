"""The published teachers: features of all tokens, stacked, normalised, and only then selected by whoever needs a fifth.

A teacher is frozen by `no_grad` and `eval` alone: its parameters stay float32, and autocast casts them in every call.
The functions of features, `image_features` and `video_features`, are apart: any raw features can go through them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines.published.model import Encoder, _table_like

from .layers import Trunk
from .student import unit


def image_features(layers: Sequence[Tensor], batch: int) -> Tensor:
    """Unit vectors (K, B, 1 + T·S, D) of the outputs (B·T, 1 + S, D) of K layers for single frames.

    The cls tokens of the frames of a clip are averaged; the other tokens follow each other.
    """
    x = torch.stack(list(layers)).unflatten(1, (batch, -1))
    cls_token, tokens = x[:, :, :, :1].mean(2), x[:, :, :, 1:].flatten(2, 3)
    return unit(torch.cat([cls_token, tokens], dim=2))


def video_features(layers: Sequence[Tensor]) -> Tensor:
    """Unit vectors (K, B, N, D) of the outputs (B, N, D) of K layers."""
    return unit(torch.stack(list(layers)))


class PublishedImageTeacher(Trunk):
    """InternVL-C's image encoder: it sees each frame alone.

    forward(clip) -> (features (K, B, 1 + N, D), pooled (B, P), attention (B·T, S)): clip (B, 3, T, H, W) is normalised;
    features and pooled are unit vectors, pooled ones averaged over the frames of a clip; attention is that of the pool
    to the S tokens of each frame, without the cls token. K features are those of the last K blocks.

    Args:
        num_layers: K.
        **trunk: as Trunk; its grid is that of one frame, (1, H', W').
    """

    def __init__(self, num_layers: int, **trunk: Any) -> None:
        super().__init__(**trunk)
        self.num_layers = num_layers
        self.init_weights()

    @torch.no_grad()
    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = len(clip)
        frames = clip.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        after = self.run_blocks(self.embed(frames))
        pooled, attention = self.clip_projector(after[-1])
        features = image_features(after[-self.num_layers :], batch)
        return features, unit(pooled.unflatten(0, (batch, -1)).mean(1)), attention[:, 1:]

    def run_blocks(self, x: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """The outputs of the last blocks: nothing else is kept."""
        return last_outputs(self.blocks, x, self.num_layers)


class PublishedVideoTeacher(nn.Module):
    """The VideoMAE V2 encoder on all tokens: (B, 3, T, H, W) -> unit vectors (K, B, N, D) of its last K blocks.

    The final norm is applied to the last of them only. `encoder` has the names and shapes of the published checkpoints.
    """

    def __init__(self, encoder: Encoder, num_layers: int) -> None:
        super().__init__()
        self.encoder, self.num_layers = encoder, num_layers

    @torch.no_grad()
    def forward(self, clip: Tensor) -> Tensor:
        x = self.encoder.patch_embed(clip)
        table = _table_like(self.encoder.pos_embed, x).expand(len(x), -1, -1)
        x = x + table.to(x.device).clone().detach()
        *layers, last = last_outputs(self.encoder.blocks, x, self.num_layers)
        return video_features([*layers, self.encoder.norm(last)])


class PublishedClipTeacher(Trunk):
    """An aligned InternVideo2 on all tokens, as the published distillation takes it.

    forward(clip) -> (features (K, B, 1 + N, D), pooled (B, P), attention (B, N)): features and pooled are unit vectors;
    attention is that of the pool to the tokens of the whole clip, without the cls token.

    Args:
        layers: the blocks whose outputs are returned, ascending.
        **trunk: as Trunk.
    """

    def __init__(self, layers: Sequence[int], **trunk: Any) -> None:
        super().__init__(**trunk)
        self.layers = tuple(layers)
        self.init_weights()

    @torch.no_grad()
    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, found = self.embed(clip), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.layers:
                found.append(x)
        pooled, attention = self.clip_projector(x)
        return video_features(found), unit(pooled), attention[:, 1:]


def last_outputs(blocks: nn.ModuleList, x: Tensor, number: int) -> list[Tensor]:
    """The outputs of the last blocks, in order; earlier ones are not kept."""
    found = []
    for index, block in enumerate(blocks):
        x = block(x)
        if index >= len(blocks) - number:
            found.append(x)
    return found
