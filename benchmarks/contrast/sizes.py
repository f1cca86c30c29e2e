"""The towers of a contrastive step by the size of the video tower, and the clips that are compared."""

from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.settings import SIZES
from videomae_fast.memory.batches import CARDS
from videomae_fast.models import VideoMAEConfig

LAST = 4  # blocks that LongViViT trains of long videos
EMBED_DIM, MAX_TOKENS = 512, 32  # of `videomae-fast contrast`


def _bert(dim: int, depth: int, heads: int, **others: int) -> dict[str, Any]:
    """Sizes of a transformers.BertConfig. Dropout is off, so that all compute the same."""
    sizes = {"hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * dim}
    return sizes | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | others


@dataclass(frozen=True)
class ContrastSize:
    """A video tower and a text tower.

    Args:
        video: the video tower; its number of frames does not count.
        text: arguments of transformers.BertConfig.
        frames: of the clips that are predicted.
        usable: bytes of the card that clips are to fit on.
    """

    video: VideoMAEConfig
    text: dict[str, Any] = field(default_factory=lambda: _bert(768, 12, 12))  # BERT-base
    frames: tuple[int, ...] = (16, 64, 128, 256)
    usable: int = CARDS["A100-80"]

    def config(self, frames: int) -> VideoMAEConfig:
        """The video tower for clips of so many frames."""
        return replace(self.video, num_frames=frames)


CONTRAST_SIZES = {
    **{size: ContrastSize(config) for size, config in SIZES.items()},
    "small": ContrastSize(SIZES["small"], _bert(384, 6, 12)),  # MiniLM
    "tiny": ContrastSize(
        replace(SIZES["tiny"], encoder_depth=LAST + 2), _bert(32, 2, 2, vocab_size=64), frames=(8,), usable=2**25
    ),
}
