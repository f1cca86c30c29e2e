"""A video tower and a text tower, whose rows are projected to one space: what contrastive pre-training trains."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert import SplitBert
from .encoder import DIMENSIONS, Clip, init_small_linear
from .linear import Linear, linear
from .text_tower import TextRows, TextTower
from .video_tower import VideoRows, VideoTower


@dataclass(frozen=True)
class Temperature:
    """How logits are scaled, as published.

    Attributes:
        parameter: "temp": scale = 1 / temp. "logit_scale": scale = exp(logit_scale).
        start: initial value of the parameter.
        low: limit of the parameter, that `limit_temperature` applies.
        high: the other limit.
        bias: initial value of `logit_bias`, or None for no bias.
    """

    parameter: str
    start: float
    low: float
    high: float
    bias: float | None = None


# By whose it is: InternVideo2 (multi_modality/models/internvideo2_stage2_visual.py), CLIP (arXiv 2103.00020, section
# 2.5) and SigLIP (arXiv 2303.15343, section 3.2).
TEMPERATURES = {
    "internvideo2": Temperature("temp", 0.07, 0.001, 0.5),
    "clip": Temperature("logit_scale", math.log(1 / 0.07), -math.inf, math.log(100)),
    "siglip": Temperature("logit_scale", math.log(10), -math.inf, math.inf, bias=-10.0),
}


class PairFeatures(NamedTuple):
    """What `contrastive_loss` takes.

    Attributes:
        video: (B, E) float32, of length 1.
        text: (B, E) float32, of length 1.
        scale: () what products of both are multiplied by.
        bias: () what is added then, or None.
    """

    video: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None


class VideoTextModel(nn.Module):
    """A dual encoder of videos and captions.

        video = normalise(vision_proj(vision_encoder(clip).pooled))
        text = normalise(text_proj(text_encoder(ids).pooled))
        logits[i, j] = scale · video[i]·text[j] + bias

    One learned number scales the logits, and its name and its limits are the published ones:

        "internvideo2"  scale = 1 / temp            temp starts at 0.07, and stays in [0.001, 0.5]
        "clip"          scale = exp(logit_scale)    scale starts at 1 / 0.07, and stays at 100 or below
        "siglip"        scale = exp(logit_scale)    scale starts at 10, without limits, and logit_bias at −10

    Limits are applied to the parameter, by `limit_temperature` after each step of the optimizer.

    Args:
        vision_encoder: the video tower.
        text_encoder: the text tower: an encoder of transformers, or a split BERT.
        embed_dim: E; 512 in InternVideo2-1B.
        temperature: a key of TEMPERATURES.

    Attributes:
        undecayed: last parts of the names of parameters that have no weight decay, besides vectors.

    Raises:
        ValueError: `embed_dim` is not positive, or TEMPERATURES has no such name.

    References:
        LongViViT, arXiv 2312.07395, section 3; InternVideo2, arXiv 2403.15377, section 3.2.
    """

    vision_encoder: VideoTower

    def __init__(
        self,
        vision_encoder: VideoTower,
        text_encoder: TextTower | SplitBert,
        embed_dim: int = 512,
        temperature: str = "clip",
    ) -> None:
        super().__init__()
        if embed_dim < 1:
            raise ValueError(f"embed_dim must be positive, got {embed_dim}")
        if temperature not in TEMPERATURES:
            raise ValueError(f"temperature must be one of {tuple(TEMPERATURES)}, got '{temperature}'")
        self.temperature = TEMPERATURES[temperature]
        self.embed_dim = embed_dim
        self.undecayed = getattr(vision_encoder, "undecayed", ())
        self.vision_encoder = vision_encoder
        self.text_encoder = text_encoder
        self.vision_proj = Linear(vision_encoder.feature_dim, embed_dim)
        self.text_proj = Linear(text_encoder.dim, embed_dim)
        self.register_parameter(self.temperature.parameter, nn.Parameter(torch.tensor(self.temperature.start)))
        bias = self.temperature.bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.vision_proj.apply(init_small_linear)
        self.text_proj.apply(init_small_linear)

    def forward(
        self,
        clip: Clip | None,
        ids: Tensor | None,
        mask: Tensor | None,
        visible: Tensor | None = None,
        layout: str = DIMENSIONS,
        *,
        text: Tensor | None = None,
        video: VideoRows | None = None,
    ) -> PairFeatures:
        """Features of clips and of their captions.

        Args:
            clip: as `VideoTower.forward` takes it: clips, or images of one frame.
            ids: (B, L) int64 token numbers; row i is the caption of clip i.
            mask: (B, L) bool or integer: 1 for tokens, 0 for padding.
            visible: (B, K) int32 or int64 tokens of the clips, unique per clip; None: all. See `VideoTower.draw`.
            layout: a permutation of "BCTHW".
            text: (B, E) what `project_text` made of the captions before, while their tower is frozen. `ids` and `mask`
                are then None.
            video: what `encode_video` made of the clips before, while their tower is frozen. `clip` is then None.

        Returns:
            The features.

        Raises:
            ValueError: there are more clips than captions or fewer; or as `VideoTower.forward` and the text tower.
            TypeError: as these.
        """
        video = self.rows_of(clip, video, visible, layout)
        if text is None:
            assert ids is not None and mask is not None
            check_pairs(ids, video)
            text = self.project_text(self.encode_text(ids, mask).pooled)
        elif ids is not None or mask is not None:
            raise ValueError("text is given in place of ids and mask, which must be None")
        check_pairs(text, video)
        return PairFeatures(self.project_video(video.pooled), text, self.scale(), self.logit_bias)

    def rows_of(
        self, clip: Clip | None, video: VideoRows | None, visible: Tensor | None = None, layout: str = DIMENSIONS
    ) -> VideoRows:
        """`video`, or what the video tower makes of `clip`; one of the two is None.

        Raises:
            ValueError: both are given, or neither; or as `VideoTower.forward`.
            TypeError: as `VideoTower.forward`.
        """
        if (clip is None) == (video is None):
            raise ValueError(f"one of clip and video must be given, got {'neither' if clip is None else 'both'}")
        if video is not None:
            return video
        assert clip is not None
        return self.encode_video(clip, visible, layout)

    def encode_video(self, clip: Clip, visible: Tensor | None = None, layout: str = DIMENSIONS) -> VideoRows:
        """What the video tower makes of clips: what can be cached while this tower is frozen and no token is hidden."""
        rows: VideoRows = self.vision_encoder(clip, visible, layout)
        return rows

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextRows:
        """What the text tower makes of captions: what can be cached while this tower is frozen."""
        rows: TextRows = self.text_encoder(ids, mask)
        return rows

    def project_video(self, pooled: Tensor) -> Tensor:
        """Features (B, E) of length 1, float32, of `VideoRows.pooled` (B, F), also of cached ones."""
        return unit_rows(linear(pooled, self.vision_proj))

    def project_text(self, pooled: Tensor) -> Tensor:
        """Features (B, E) of length 1, float32, of `TextRows.pooled` (B, H), also of cached ones."""
        return unit_rows(linear(pooled, self.text_proj))

    def scale(self) -> Tensor:
        """() what products of features are multiplied by; differentiable in the learned number."""
        value: Tensor = getattr(self, self.temperature.parameter)
        return 1 / value if self.temperature.parameter == "temp" else value.exp()

    @torch.no_grad()
    def limit_temperature(self) -> None:
        """Put the learned number back into its limits, in place. Call it after each step of the optimizer."""
        getattr(self, self.temperature.parameter).clamp_(self.temperature.low, self.temperature.high)

    def freeze_video(self) -> None:
        """Train nothing of the video tower, as in the second phase of InternVideo2's second stage.

        It keeps no activations and drops no branches from then on, so that its rows depend on the clip alone. Its
        projection is trained.
        """
        self.vision_encoder.freeze_whole()

    def freeze_text(self) -> None:
        """Train nothing of the text tower, as LongViViT's last phase: `text_proj` neither, so that features are fixed.

        The tower stays in evaluation mode from then on, whatever the mode of the model: it drops nothing.
        """
        self.text_encoder.requires_grad_(False).eval()
        self.text_proj.requires_grad_(False)

    def train(self, mode: bool = True) -> "VideoTextModel":
        """As nn.Module.train; a frozen text tower stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.text_encoder.parameters()):
            self.text_encoder.eval()
        return self


def check_pairs(captions: Tensor, video: VideoRows) -> None:
    """Make sure that there are as many captions, (B, …), as clips."""
    if captions.shape[:1] != video.pooled.shape[:1]:
        raise ValueError(
            f"there must be as many captions as clips, got {captions.shape[0]} and {video.pooled.shape[0]}"
        )


def unit_rows(x: Tensor) -> Tensor:
    """x / ‖x‖ of each row, in float32 (float64 of float64), whatever the dtype of x and autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
