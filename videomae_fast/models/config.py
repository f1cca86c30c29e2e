"""The configurations of VideoMAE V2 and InternVideo2 models, and the published sizes."""

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any

from .constants import IMAGENET_MEAN, IMAGENET_STD

DECODER_CONTEXTS = ("published", "disjoint")
RECOMPUTE = ("auto", "always", "never")


class ClipConfig:
    """What the configurations of all models of clips share: their fields and checks. Each model is a dataclass."""

    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    mlp_ratio: float
    patch_size: int
    tubelet_size: int
    num_frames: int
    image_size: tuple[int, int]
    in_channels: int
    drop_path: float
    norm_eps: float
    attention: str
    elementwise: str
    activation_checkpointing: bool
    recompute: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.recompute not in RECOMPUTE:
            raise ValueError(f"recompute must be one of {RECOMPUTE}, got '{self.recompute}'")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if isinstance(self.image_size, int) or len(self.image_size) != 2:
            raise ValueError(f"image_size must be (height, width), got {self.image_size}")
        if any(isinstance(side, bool) or not isinstance(side, Integral) for side in self.image_size):
            raise TypeError(f"image_size must be integers, got {self.image_size}")
        self._check_heads("encoder_dim", "encoder_heads")
        sizes = (self.num_frames, *self.image_size)
        if any(size < 1 or size % patch for size, patch in zip(sizes, self.patch, strict=True)):
            raise ValueError(
                f"num_frames {self.num_frames} and image_size {self.image_size} must be multiples of "
                f"tubelet_size {self.tubelet_size} and patch_size {self.patch_size}"
            )
        if len(self.pixel_mean) != self.in_channels or len(self.pixel_std) != self.in_channels:
            raise ValueError(f"pixel_mean and pixel_std need {self.in_channels} values, one per channel")

    def _check_heads(self, dim: str, heads: str) -> None:
        if getattr(self, dim) % getattr(self, heads):
            raise ValueError(f"{dim} {getattr(self, dim)} is not divisible by {heads} {getattr(self, heads)}")

    def _check_numbers(self) -> None:
        assert is_dataclass(self)
        for each in fields(self):
            if each.type not in (int, float):
                continue
            value: Any = getattr(self, each.name)
            word = "an integer" if each.type is int else "a number"
            if isinstance(value, bool) or not isinstance(value, Integral if each.type is int else Real):
                raise TypeError(f"{each.name} must be {word}, got {value!r}")
            if each.name != "drop_path" and not 0 < value < math.inf:
                raise ValueError(f"{each.name} must be positive, got {value}")

    @property
    def patch(self) -> tuple[int, int, int]:
        """Pixels of a token: (frames, height, width)."""
        return self.tubelet_size, self.patch_size, self.patch_size

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip: (T', H', W')."""
        height, width = self.image_size
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """N = T'·H'·W'."""
        t, h, w = self.grid
        return t * h * w

    @property
    def patch_dim(self) -> int:
        """P, the pixel values of one token."""
        return self.in_channels * self.tubelet_size * self.patch_size**2


@dataclass(frozen=True)
class VideoMAEConfig(ClipConfig):
    """A VideoMAE V2 pre-training model (models/modeling_pretrain.py of the published code).

    Args:
        encoder_dim: D, the width of the encoder.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder; they divide encoder_dim.
        decoder_dim: d, the width of the decoder.
        decoder_heads: attention heads of the decoder; they divide decoder_dim.
        decoder_depth: blocks of the decoder.
        mlp_ratio: hidden units of an MLP over its width, in encoder and decoder; int(width·mlp_ratio) units.
        patch_size: height and width of a token, in pixels.
        tubelet_size: frames of a token.
        num_frames: frames of a clip, a multiple of tubelet_size.
        image_size: (height, width) of a clip in pixels, multiples of patch_size.
        in_channels: channels of a clip.
        drop_path: rate of stochastic depth in the last block, in [0, 1); it rises linearly over depth from 0.
        norm_eps: eps of all LayerNorms.
        attention: a key of `models.attention.BACKENDS`.
        elementwise: how blocks compute what lies between the matrix products. "triton": `videomae_kernels`, with
            residual additions in the pass of the norm after them, and biases in that of the GELU; CPU tensors run its
            references. "torch": PyTorch, an operation each. "apex": PyTorch, with NVIDIA's Apex for norms.
        activation_checkpointing: keep only the input of each block, and repeat the whole block in backward.
        recompute: "always" repeats norms and GELUs in backward, "never" keeps their results. A model built with "auto"
            repeats them; to decide by predicted memory, call `choose_recompute` before building the model.
        decoder_context: "published" gives the decoder mask tokens also at positions that the encoder sees. "disjoint"
            leaves them out, as the paper describes: fewer tokens, other results.
        pixel_mean: mean of each channel, for pixels in [0, 1].
        pixel_std: standard deviation of each channel, for pixels in [0, 1].

    Raises:
        ValueError: sizes that do not fit together, a number out of range, or an unknown choice; the message names the
            field.
        TypeError: a number is of another type.
    """

    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    decoder_dim: int
    decoder_heads: int
    decoder_depth: int = 4
    mlp_ratio: float = 4.0
    patch_size: int = 16
    tubelet_size: int = 2
    num_frames: int = 16
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "sdpa"
    elementwise: str = "triton"
    activation_checkpointing: bool = False
    recompute: str = "auto"
    decoder_context: str = "published"
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_context not in DECODER_CONTEXTS:
            raise ValueError(f"decoder_context must be one of {DECODER_CONTEXTS}, got '{self.decoder_context}'")
        self._check_heads("decoder_dim", "decoder_heads")


@dataclass(frozen=True)
class InternVideo2Config(ClipConfig):
    """An InternVideo2 encoder (models/internvideo2_pretrain.py of the published code).

    Args:
        encoder_dim: D, the width of the encoder, a multiple of 16 (of its position tables).
        encoder_depth: L, blocks.
        encoder_heads: attention heads; they divide encoder_dim.
        mlp_ratio: hidden units of an MLP over D; int(D·mlp_ratio) units.
        pool_heads: heads of the attention pool; they divide encoder_dim.
        clip_embed_dim: width of what the attention pool returns.
        layer_scale: initial gamma of LayerScale.
        patch_size: height and width of a token, in pixels.
        tubelet_size: frames of a token.
        num_frames: frames of a clip, a multiple of tubelet_size.
        image_size: (height, width) of a clip in pixels, multiples of patch_size.
        in_channels: channels of a clip.
        drop_path: rate of stochastic depth in the last block, in [0, 1); it rises linearly over depth from 0.
        norm_eps: eps of all RMSNorms.
        attention: as in `VideoMAEConfig`.
        elementwise: as in `VideoMAEConfig`.
        activation_checkpointing: keep only the input of each block, and repeat the whole block in backward.
        recompute: as in `VideoMAEConfig`.
        pixel_mean: mean of each channel, for pixels in [0, 1].
        pixel_std: standard deviation of each channel, for pixels in [0, 1].

    Raises:
        ValueError: sizes that do not fit together, a number out of range, or an unknown choice; the message names the
            field.
        TypeError: a number is of another type.
    """

    encoder_dim: int
    encoder_depth: int
    encoder_heads: int
    mlp_ratio: float = 4.0
    pool_heads: int = 16
    clip_embed_dim: int = 768
    layer_scale: float = 1e-5
    patch_size: int = 14
    tubelet_size: int = 1
    num_frames: int = 8
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "sdpa"
    elementwise: str = "triton"
    activation_checkpointing: bool = False
    recompute: str = "auto"
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads("encoder_dim", "pool_heads")
        if self.encoder_dim % 16:
            raise ValueError(f"encoder_dim must be a multiple of 16 for the position tables, got {self.encoder_dim}")


CONFIGS = {
    "small": VideoMAEConfig(384, 12, 6, 192, 3),
    "base": VideoMAEConfig(768, 12, 12, 384, 6),
    "large": VideoMAEConfig(1024, 24, 16, 512, 8),
    "huge": VideoMAEConfig(1280, 32, 16, 512, 8),
    "giant": VideoMAEConfig(1408, 40, 16, 512, 8, mlp_ratio=48 / 11, patch_size=14),
}


def get_config(size: str, **changes: Any) -> VideoMAEConfig:
    """The published configuration of a size, with changes.

    Args:
        size: a key of CONFIGS: "small", "base", "large", "huge" or "giant".
        **changes: fields of VideoMAEConfig that differ, such as `num_frames=32`.

    Returns:
        The configuration.

    Raises:
        ValueError: CONFIGS has no such size, or the values do not fit together.
        TypeError: VideoMAEConfig has no such field.

    References:
        VideoMAE V2, arXiv 2303.16727; models/modeling_pretrain.py of the published code.
    """
    if size not in CONFIGS:
        raise ValueError(f"size must be one of {tuple(CONFIGS)}, got '{size}'")
    return replace(CONFIGS[size], **changes)


INTERNVIDEO2_CONFIGS = {
    "nano": InternVideo2Config(128, 4, 4, layer_scale=1.0),  # of demos: too few blocks to need branches that start at 0
    "small": InternVideo2Config(384, 12, 6),
    "base": InternVideo2Config(768, 12, 12),
    "large": InternVideo2Config(1024, 24, 16),
    "1b": InternVideo2Config(1408, 40, 16, mlp_ratio=48 / 11),
    "6b": InternVideo2Config(3200, 48, 25),
}


def get_internvideo2_config(size: str, **changes: Any) -> InternVideo2Config:
    """The published configuration of a size of InternVideo2, with changes.

    Args:
        size: a key of INTERNVIDEO2_CONFIGS: "small", "base", "large", "1b" or "6b"; or "nano", which is ours, for
            demos.
        **changes: fields of InternVideo2Config that differ, such as `num_frames=16`.

    Returns:
        The configuration.

    Raises:
        ValueError: INTERNVIDEO2_CONFIGS has no such size, or the values do not fit together.
        TypeError: InternVideo2Config has no such field.

    References:
        InternVideo2, arXiv 2403.15377; models/internvideo2_pretrain.py and internvideo2_distill.py of the published
        code.
    """
    if size not in INTERNVIDEO2_CONFIGS:
        raise ValueError(f"size must be one of {tuple(INTERNVIDEO2_CONFIGS)}, got '{size}'")
    return replace(INTERNVIDEO2_CONFIGS[size], **changes)
