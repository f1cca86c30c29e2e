"""A classifier of clips: an InternVideo2 encoder, its attention pool, a norm and a linear head."""

import torch
from torch import Tensor, nn

from .classifier_parts import ClassifierParts, check_head
from .config import InternVideo2Config
from .encoder import DIMENSIONS, Clip, init_small_linear
from .internvideo2 import InternVideo2
from .linear import Linear, linear


class InternVideo2ForClassification(ClassifierParts, InternVideo2):
    """A classifier of clips. Its state_dict has the keys and shapes of a published fine-tuning checkpoint.

        logits = head(dropout(fc_norm(clip_projector(blocks([cls, patch_embed(clip)] + pos_embed)))))

    Args:
        config: the model. Any number of frames and any size, also non-square.
        num_classes: C, outputs of the head.
        head_dropout: rate of dropout before the head, in [0, 1).
        init_scale: factor of the head's initial weight and bias: small logits, so that the first loss is ln C.

    Raises:
        ValueError: a number is out of range; the message names the argument.

    References:
        InternVideo2, arXiv 2403.15377; models/internvideo2.py of the published code.
    """

    first_parts = ("patch_embed", "cls_token", "pos_embed")
    head_parts = ("clip_projector", "fc_norm", "head")

    def __init__(
        self, config: InternVideo2Config, num_classes: int, *, head_dropout: float = 0.0, init_scale: float = 0.001
    ) -> None:
        check_head(num_classes, head_dropout)
        super().__init__(config)
        self.num_classes = num_classes
        self.fc_norm = nn.LayerNorm(config.clip_embed_dim)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = Linear(config.clip_embed_dim, num_classes)
        self.head.apply(init_small_linear)
        with torch.no_grad():
            self.head.weight.mul_(init_scale)
            self.head.bias.mul_(init_scale)

    def forward(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """Logits of clips.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the model was built for; uint8,
                or floating and normalised with the configuration's pixel_mean and pixel_std. Or CroppedClips, which
                have no layout.
            index: (B, K) int32 or int64 tokens to compute, unique per sample; the pool reads these and the cls token.
                None: all.
            layout: a permutation of "BCTHW".

        Returns:
            (B, C).

        Raises:
            ValueError: the clip or the index has another size, or the layout is wrong; the message names what came.
            TypeError: the clip is neither uint8 nor floating, or the index is no integer tensor.
        """
        return linear(self.head_dropout(self.features(clip, index, layout)), self.head)

    def features(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """What the head reads, without dropout: the pooled row after `fc_norm`.

        Args:
            clip: as `forward` takes it.
            index: as `forward` takes it.
            layout: a permutation of "BCTHW".

        Returns:
            (B, clip_embed_dim).

        Raises:
            ValueError: as `forward`.
            TypeError: as `forward`.
        """
        return self.fc_norm(super().features(clip, index, layout))
