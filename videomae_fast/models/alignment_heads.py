"""The heads of an aligned student: which layers of it are compared with a teacher's, and how."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_kernels import alignment_loss

from .attention_pool import POOL_EPS
from .encoder import init_small_linear
from .linear import Linear, Source, linear


@dataclass(frozen=True)
class AlignmentHeads:
    """The heads of an alignment model. Layers are numbers of the student's blocks, from 0, in ascending order.

    Args:
        image_layers: blocks whose rows are compared with an image teacher's (`clip_decoder`); () has no such head.
        image_dim: width of the image teacher's rows.
        image_mlp: whether the heads of image layers and of the pooled row are MLPs, as in the published distillation;
            else they are linear.
        pooled_dim: width of the image teacher's pooled row (`final_clip_decoder`); None has no such head, and no
            attention pool.
        video_layers: blocks whose rows are compared with a video teacher's (`mae_decoder`, MLPs); () has no such head.
        video_dim: width of the video teacher's rows.

    Raises:
        ValueError: there is no head; layers are not ascending; or a width is not positive.
        TypeError: a layer is no integer.
    """

    image_layers: tuple[int, ...] = ()
    image_dim: int = 3200
    image_mlp: bool = False
    pooled_dim: int | None = 768
    video_layers: tuple[int, ...] = ()
    video_dim: int = 1408

    def __post_init__(self) -> None:
        if not (self.image_layers or self.video_layers or self.pooled_dim):
            raise ValueError("heads must have image_layers, video_layers or pooled_dim")
        for name in ("image_layers", "video_layers"):
            layers = getattr(self, name)
            if any(isinstance(layer, bool) or not isinstance(layer, int) for layer in layers):
                raise TypeError(f"{name} must be integers, got {layers}")
            if list(layers) != sorted(set(layers)) or any(layer < 0 for layer in layers):
                raise ValueError(f"{name} must be ascending block numbers from 0, got {layers}")
        for name in ("image_dim", "pooled_dim", "video_dim"):
            width = getattr(self, name)
            if width is not None and width < 1:
                raise ValueError(f"{name} must be positive, got {width}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that any head reads row by row, ascending."""
        return tuple(sorted({*self.image_layers, *self.video_layers}))

    def check_depth(self, depth: int) -> None:
        """Make sure that a model of `depth` blocks has all the layers, and no block that nobody reads.

        Args:
            depth: L.

        Raises:
            ValueError: a layer is not in [0, L); or there is no pooled head and the last block has no head.
        """
        if self.layers and self.layers[-1] >= depth:
            raise ValueError(f"image_layers and video_layers must be below encoder_depth {depth}, got {self.layers}")
        if self.pooled_dim is None and self.layers[-1] < depth - 1:
            raise ValueError(
                f"no head reads the blocks after {self.layers[-1]}, and encoder_depth is {depth}: the last block "
                "needs a head, or pooled_dim"
            )


@dataclass(frozen=True, eq=False)
class AlignmentLosses:
    """Losses 2 − 2·cos, each averaged over rows, float32 (float64 of a float64 model).

    Attributes:
        image: (K_i,) one per image layer; None without such heads. The mean is the published loss.
        pooled: () of the pooled row; None without such a head.
        video: (K_v,) one per video layer; None without such heads. The mean is the published loss.
    """

    image: Tensor | None
    pooled: Tensor | None
    video: Tensor | None


class AlignmentHead(nn.Module):
    """A Linear or an MLP (Linear, GELU, Linear), then a LayerNorm; its forward is the loss against a teacher's rows.

    Args:
        dim: D, of the student's rows.
        out: D_T, of the teacher's rows.
        mlp: whether the head is an MLP, of D hidden units.
        recompute: "never" keeps all for backward; "always" and "auto" make inputs of the products again.
    """

    def __init__(self, dim: int, out: int, mlp: bool, recompute: str) -> None:
        super().__init__()
        self.head = nn.Sequential(Linear(dim, dim), nn.GELU(), Linear(dim, out)) if mlp else Linear(dim, out)
        self.norm = nn.LayerNorm(out, eps=POOL_EPS)
        self.recompute = recompute
        self.apply(init_small_linear)

    def forward(self, x: Tensor, target: Tensor, position: Tensor | None = None) -> Tensor:
        """The mean over rows of 2 − 2·cos(norm(head(x + position)), target).

        Args:
            x: (…, D).
            target: (…, D_T) floating.
            position: (…, D), or None for 0.

        Returns:
            Scalar float32, or float64 for float64.
        """
        source = None
        if position is not None:  # both are kept anyway: x by the next block, the positions once for all layers
            x, source = x + position, Source(torch.add, (x, position))
        y = self._map(x, source)
        return alignment_loss(y, target, self.norm.weight, self.norm.bias, self.norm.eps)

    def _map(self, x: Tensor, source: Source | None) -> Tensor:
        source = None if self.recompute == "never" else source
        if not isinstance(self.head, nn.Sequential):
            return linear(x, self.head, source=source)
        hidden = linear(x, self.head[0], source=source)
        gelu = None if self.recompute == "never" else Source(F.gelu, (hidden,))
        return linear(F.gelu(hidden), self.head[2], source=gelu)
