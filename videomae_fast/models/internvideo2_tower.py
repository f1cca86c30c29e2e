"""The video tower of InternVideo2's second stage: the encoder and pool of the first, and positions for images."""

from typing import Any, ClassVar

from torch import Tensor, nn

from .config import InternVideo2Config
from .encoder import Clip
from .internvideo2 import InternVideo2, position_rows
from .video_tower import VideoTower, check_pool, image_config_of, zero_gradient


class InternVideo2Tower(VideoTower, InternVideo2):
    """A video tower of InternVideo2's encoder.

        tokens = blocks([cls, patch_embed(clip)] + pos_embed)       pooled = clip_projector(tokens)

    Images have the same kernel, where it spans one frame, and a table of positions of their own. The state_dict has the
    names and shapes of `vision_encoder.` in the published checkpoints of the second stage, without the heads of the
    first.

    Args:
        config: the model. Any number of frames and any size. With more frames a token than the published one, the tower
            is for clips alone.
        pool: "attention" as published; or "mean" of the visible tokens, without the cls token.

    Raises:
        ValueError: POOLS has no such pooling.

    References:
        InternVideo2, arXiv 2403.15377, section 3.2; models/backbones/internvideo2/internvideo2.py of
        OpenGVLab/InternVideo, InternVideo2/multi_modality.
    """

    first_parts = ("patch_embed", "cls_token", "pos_embed", "img_pos_embed")
    head_parts = ("clip_projector",)
    undecayed: ClassVar[tuple[str, ...]] = ("cls_token", "pos_embed", "img_pos_embed")

    def __init__(self, config: InternVideo2Config, *, pool: str = "attention") -> None:
        super().__init__(config, pool=check_pool(pool) == "attention")
        self.image_config: Any = image_config_of(config)
        self.img_pos_embed = nn.Parameter(position_rows(self.image_config))
        self.token_dim = config.encoder_dim

    def check_images(self) -> None:
        """See `VideoTower.check_images`."""
        if self.config.tubelet_size != 1:
            raise ValueError(
                "images need tubelet_size 1, because they share the kernel of the patches with clips, got "
                f"{self.config.tubelet_size}: leave images out, or take a tower of one frame a token"
            )

    def _embed(self, clip: Clip, visible: Tensor, image: bool) -> Tensor:
        if image:
            self.check_images()
        used, unused = (self.img_pos_embed, self.pos_embed) if image else (self.pos_embed, self.img_pos_embed)
        return self.embed(clip, visible, zero_gradient(used, unused))

    def _normalise(self, x: Tensor) -> Tensor:
        return x

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.clip_projector is None:
            return tokens[:, 1:].mean(1)
        pooled: Tensor = self.clip_projector(tokens)
        return pooled
