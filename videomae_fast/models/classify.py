"""A video classifier: all or some tokens through the encoder's blocks, their mean, a norm and a linear head.

The mathematics is the published one (models/modeling_finetune.py), and so are the names of the parameters. The mean of
the tokens is taken before the last product of the last block, with which it commutes.
"""

from functools import partial

import torch
from torch import Tensor, nn

from .classifier_parts import ClassifierParts, check_head
from .config import VideoMAEConfig
from .encoder import DIMENSIONS, Clip, PatchEmbedding, every_token, init_small_linear, make_blocks, open_clip
from .linear import Linear, linear
from .norms import add_branch
from .positions import FixedPositions, interpolated_sinusoid

POSITIONS = ("interpolate", "sinusoid")
PUBLISHED_CLIP = (16, 224, 224)  # frames, height and width of the clips that the published models were pre-trained on


class VideoMAEForClassification(ClassifierParts, FixedPositions):
    """A classifier of clips. Its state_dict has the keys and shapes of a published fine-tuning checkpoint.

        logits = head(dropout(fc_norm(mean_k blocks(patch_embed(clip) + position)[k])))

    Args:
        config: the model; its decoder fields are not used. Any number of frames and any size, also non-square.
        num_classes: C, outputs of the head.
        head_dropout: rate of dropout before the head, in [0, 1).
        init_scale: factor of the head's initial weight and bias: small logits, so that the first loss is ln C.
        positions: "interpolate": the table of the clips of `trained_clip`, interpolated where the grid differs, so
            that positions keep the meaning they had. "sinusoid": the sinusoid of this grid, as the published code and
            transformers compute it. Equal grids have equal tables.
        trained_clip: (frames, height, width) of the clips that the weights to load were trained on.

    Raises:
        ValueError: a number is out of range, `positions` is unknown, or `trained_clip` does not divide into patches;
            the message names the argument.

    References:
        VideoMAE V2, arXiv 2303.16727; models/modeling_finetune.py of the published code.
    """

    first_parts = ("patch_embed",)
    head_parts = ("fc_norm", "head")
    undecayed = ()

    def __init__(
        self,
        config: VideoMAEConfig,
        num_classes: int,
        *,
        head_dropout: float = 0.0,
        init_scale: float = 0.001,
        positions: str = "interpolate",
        trained_clip: tuple[int, int, int] = PUBLISHED_CLIP,
    ) -> None:
        check_head(num_classes, head_dropout)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}, got '{positions}'")
        table = partial(interpolated_sinusoid, _trained_grid(config, trained_clip), config.grid, config.encoder_dim)
        super().__init__(config.num_tokens, config.encoder_dim, table if positions == "interpolate" else None)
        self.config = config
        self.num_classes = num_classes
        self.patch_embed = PatchEmbedding(config)
        self.blocks = make_blocks(config, config.encoder_dim, config.encoder_depth, config.encoder_heads)
        self.fc_norm = nn.LayerNorm(config.encoder_dim, eps=config.norm_eps)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = Linear(config.encoder_dim, num_classes)
        self.apply(init_small_linear)
        with torch.no_grad():
            self.head.weight.mul_(init_scale)
            self.head.bias.mul_(init_scale)

    def forward(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """Logits of clips.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the model was built for; uint8,
                or floating and normalised with the configuration's pixel_mean and pixel_std. Or CroppedClips, which
                have no layout.
            index: (B, K) int32 or int64 tokens to compute, unique per sample: the mean is that of these. None: all.
            layout: a permutation of "BCTHW".

        Returns:
            (B, C).

        Raises:
            ValueError: the clip or the index has another size, or the layout is wrong; the message names what came.
            TypeError: the clip is neither uint8 nor floating, or the index is no integer tensor.
        """
        return linear(self.head_dropout(self.features(clip, index, layout)), self.head)

    def features(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """What the head reads, without dropout: the mean of the tokens after `fc_norm`.

        Args:
            clip: as `forward` takes it.
            index: as `forward` takes it.
            layout: a permutation of "BCTHW".

        Returns:
            (B, D).

        Raises:
            ValueError: as `forward`.
            TypeError: as `forward`.
        """
        total = self._run(clip, index, layout, mean=True)
        return self.fc_norm(total.squeeze(1))

    @property
    def feature_dim(self) -> int:
        """The width of `features`: D."""
        return self.config.encoder_dim

    def tokens(self, clip: Clip, index: Tensor | None = None, layout: str = DIMENSIONS) -> Tensor:
        """The tokens after the last block, before mean and norm: `fc_norm` is trained for means, not for tokens.

        Args:
            clip: as `forward` takes it.
            index: as `forward` takes it.
            layout: a permutation of "BCTHW".

        Returns:
            (B, K, D), in the order of the index, or (B, N, D) in (t, h, w) order.

        Raises:
            ValueError: as `forward`.
            TypeError: as `forward`.
        """
        return self._run(clip, index, layout, mean=False)

    def _run(self, clip: Clip, index: Tensor | None, layout: str, mean: bool) -> Tensor:
        clip = open_clip(clip, self.config, layout)
        if index is not None and index.shape[-1:] == (0,):
            raise ValueError(f"index must list one token or more of each clip, got shape {tuple(index.shape)}")
        if index is None:
            index = every_token(clip, self.config)
        *blocks, last = self.blocks
        x, branch = self.patch_embed(clip, index, self.position), None
        for block in blocks:
            x, branch = block(x, branch)
        return add_branch(*last(x, branch, mean=mean))


def _trained_grid(config: VideoMAEConfig, clip: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(clip) != 3 or any(size < 1 or size % patch for size, patch in zip(clip, config.patch, strict=True)):
        raise ValueError(
            f"trained_clip must be (frames, height, width), multiples of {config.patch} as the model's tokens, got "
            f"{tuple(clip)}"
        )
    frames, height, width = (size // patch for size, patch in zip(clip, config.patch, strict=True))
    return frames, height, width
