"""What video towers share: one forward for clips and for images, for all tokens or some, with a frozen prefix."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videomae_kernels import random_mask_index

from .classifier_parts import ClassifierParts
from .config import ClipConfig
from .encoder import DIMENSIONS, Clip, every_token, open_clip
from .layers import Block
from .norms import add_branch

POOLS = ("mean", "attention")


class VideoRows(NamedTuple):
    """What a video tower makes of clips.

    Attributes:
        tokens: (B, S, D), rows for cross-attention. S is the number of visible tokens K, or 1 + K with a cls token in
            row 0.
        pooled: (B, F), one row for each clip.
    """

    tokens: Tensor
    pooled: Tensor


class VideoTower(ClassifierParts):
    """A video encoder of a dual encoder: the base of all towers.

    An image is a clip of one frame, in a batch of its own. Only the pixels of the visible tokens are read.

    `freeze("last:K")` trains the last K blocks and what is after them. The frozen prefix then runs without a graph, so
    it keeps no activations; it drops no branches, either.

    Attributes:
        config: the model for clips.
        image_config: the model for images: one frame, which is one token in time.
        token_dim: D of `VideoRows.tokens`.
        feature_dim: F of `VideoRows.pooled`.
    """

    config: Any
    image_config: ClipConfig
    token_dim: int
    feature_dim: int

    def is_image(self, clip: Clip, layout: str = DIMENSIONS) -> bool:
        """Whether a clip has one frame, and the tower is not one of single frames itself."""
        axis = DIMENSIONS.index("T") if not isinstance(clip, Tensor) else layout.find("T")
        return len(clip.shape) == 5 and axis >= 0 and clip.shape[axis] == 1 and self.config.num_frames > 1

    def check_images(self) -> None:
        """Make sure that the tower takes images.

        Raises:
            ValueError: it is for clips alone.
        """

    def draw(self, sample: Tensor, ratio: float, *, seed: int, stream: int = 0, image: bool = False) -> Tensor:
        """Visible tokens of random masking, `random_mask_index` for the grid of clips or of images.

        Args:
            sample: (B,) int64 sample numbers; the result is on their device.
            ratio: share of tokens hidden, in [0, 1): one token is always left. 0.75 in LongViViT; InternVideo2's second
                stage hides 0.8 of a clip and 0.5 of an image.
            seed: of the run, in [0, 2⁶³).
            stream: in [0, 2³²); masks of different streams are independent.
            image: whether the samples are images.

        Returns:
            (B, K) int64 token numbers, ascending.

        Raises:
            ValueError: `ratio`, `seed` or `stream` is out of range, or `sample` is no vector.
            TypeError: `sample` is no int64 tensor, or a number is of another type.
        """
        tokens = self.image_config.num_tokens if image else self.config.num_tokens
        return random_mask_index(sample, tokens, ratio, seed=seed, stream=stream)

    def forward(self, clip: Clip, visible: Tensor | None = None, layout: str = DIMENSIONS) -> VideoRows:
        """Rows of the visible tokens, and one row for each clip.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the tower was built for, or of one
                frame; uint8, or floating and normalised with the configuration's pixel_mean and pixel_std. Or
                CroppedClips, which have no layout.
            visible: (B, K) int32 or int64 tokens, unique per clip; None: all.
            layout: a permutation of "BCTHW".

        Returns:
            The rows.

        Raises:
            ValueError: the clip or `visible` has another size, no token is visible, or the layout is wrong; the message
                names what came.
            TypeError: the clip is neither uint8 nor floating, or `visible` is no integer tensor.
        """
        image = self.is_image(clip, layout)
        config = self.image_config if image else self.config
        clip = open_clip(clip, config, layout)
        visible = every_token(clip, config) if visible is None else visible
        if visible.ndim != 2 or visible.shape[0] != clip.shape[0] or visible.shape[1] < 1:
            raise ValueError(
                f"visible must be ({clip.shape[0]}, K) with one token or more of each clip, got {tuple(visible.shape)}"
            )
        frozen = self.frozen_blocks()
        with torch.set_grad_enabled(torch.is_grad_enabled() and frozen is None):
            x, branch = self._embed(clip, visible, image), None
            for block in self.blocks[: frozen or 0]:
                x, branch = block(x, branch)
        for block in self.blocks[frozen or 0 :]:
            x, branch = block(x, branch)
        tokens = self._normalise(add_branch(x, branch))
        return VideoRows(tokens, self._pool(tokens))

    def freeze_whole(self) -> None:
        """Train nothing. It keeps no activations and drops no branches from then on: rows depend on the clip alone."""
        self.requires_grad_(False)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.drop_path = None

    def frozen_blocks(self) -> int | None:
        """How many of the first blocks are frozen together with all before them; None if what is before them is not.

        LoRA adapters in a block that is frozen otherwise train, so such a block does not count.
        """
        before = [getattr(self, name) for name in self.first_parts]
        if any(p.requires_grad for part in before for p in ([part] if isinstance(part, Tensor) else part.parameters())):
            return None
        trained = (any(p.requires_grad for p in block.parameters()) for block in self.blocks)
        return next((number for number, trains in enumerate(trained) if trains), len(self.blocks))

    def _embed(self, clip: Clip, visible: Tensor, image: bool) -> Tensor:
        """(B, S, D): the input of the first block."""
        raise NotImplementedError

    def _normalise(self, x: Tensor) -> Tensor:
        """What follows the last block: (B, S, D) → (B, S, D)."""
        raise NotImplementedError

    def _pool(self, tokens: Tensor) -> Tensor:
        """(B, S, D) → (B, F)."""
        raise NotImplementedError


def image_config_of(config: Any) -> Any:
    """The configuration of a tower's images: one frame, one token in time."""
    return replace(config, num_frames=1, tubelet_size=1)


def check_pool(pool: str) -> str:
    """Make sure that a pooling exists.

    Args:
        pool: a name of POOLS.

    Returns:
        `pool`.

    Raises:
        ValueError: POOLS has no such name.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {POOLS}, got '{pool}'")
    return pool


def zero_gradient(x: Tensor, *unused: Tensor) -> Tensor:
    """x, with a gradient of zeros for parameters that this batch does not use.

    Batches of images and of clips use other parameters, and DDP waits for a gradient of each one. Without it, the
    optimizer would also skip a parameter in one process and not in several.

    Args:
        x: any floating tensor; a small one, such as a table of positions, is cheap.
        *unused: parameters, on its device.

    Returns:
        x + 0, if a parameter requires a gradient and gradients are enabled; else x.
    """
    wanted = [p for p in unused if p.requires_grad and torch.is_grad_enabled()]
    return x + torch.stack([p.flatten()[0] * 0 for p in wanted]).sum().to(x.dtype) if wanted else x
