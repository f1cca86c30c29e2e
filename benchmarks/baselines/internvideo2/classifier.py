"""InternVideo2's classifier: all tokens, attention pooling, a norm and a linear head."""

from typing import Any

from torch import Tensor, nn

from .layers import POOL_EPS, Trunk


class PublishedInternVideo2Classifier(Trunk):
    """InternVideo2 fine-tuned; `state_dict()` has the names and shapes of the published checkpoints.

    forward(clip, keep=None) -> (B, C): clip (B, 3, T, H, W) is normalised; keep as PublishedInternVideo2 takes it.
    """

    def __init__(self, num_classes: int, init_scale: float = 0.001, **trunk: Any) -> None:
        super().__init__(**trunk)
        self.fc_norm = nn.LayerNorm(trunk["pool_dim"], eps=POOL_EPS)
        self.head = nn.Linear(trunk["pool_dim"], num_classes)
        self.init_weights()
        self.head.weight.data.mul_(init_scale)
        self.head.bias.data.mul_(init_scale)

    @classmethod
    def from_config(cls, config: Any, num_classes: int, **options: Any) -> "PublishedInternVideo2Classifier":
        """The published model of the sizes in an InternVideo2Config; `options` as the constructor takes them."""
        return cls(num_classes, **cls.sizes(config), **options)

    def forward_features(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        pooled, _ = self.clip_projector(self.run_blocks(self.embed(clip), keep)[-1])
        return self.fc_norm(pooled)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.head(self.forward_features(clip, keep))
