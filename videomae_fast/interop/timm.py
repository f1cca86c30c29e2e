"""The seams of timm's token dropping (timm/layers/patch_dropout.py), which any ViT of timm can use."""

from typing import Any

import torch
from torch import Tensor

from videomae_kernels import gather_tokens

from .seam import Seam

TESTED = "timm 1.0.31"


def patch_dropout_forward(self: Any, x: Tensor) -> Tensor:
    """PatchDropout.forward: keep the prefix tokens and a random share of the other tokens, in one gather.

    Args:
        x: (B, L, D) tokens.

    Returns:
        (B, K, D); `x` itself in evaluation.
    """
    return _drop(self, x)[0]


def patch_dropout_with_indices_forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """PatchDropoutWithIndices.forward: as `patch_dropout_forward`, and the kept patches.

    Args:
        x: (B, L, D) tokens.

    Returns:
        The kept tokens, and the indices of the kept patches among the patches; None in evaluation.
    """
    return _drop(self, x)


def _drop(self: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    if not self.training or self.prob == 0.0:
        return x, None
    batch, prefix = x.shape[0], self.num_prefix_tokens
    patches = x.shape[1] - prefix
    keep = max(1, int(patches * (1.0 - self.prob)))
    # The same random numbers in the same order as timm's.
    kept = torch.argsort(torch.randn(batch, patches, device=x.device), dim=-1)[:, :keep]
    if self.ordered:
        kept = kept.sort(dim=-1)[0]
    index = kept
    if prefix:
        index = torch.cat([torch.arange(prefix, device=x.device).expand(batch, -1), kept + prefix], dim=1)
    return gather_tokens(x, index), kept


def _seam(class_name: str, forward: Any) -> Seam:
    return Seam(
        op="gather_tokens",
        class_name=class_name,
        package="timm",
        needs={"prob": (int, float), "num_prefix_tokens": int, "ordered": bool},
        forward=forward,
        example=lambda module: (torch.randn(2, module.num_prefix_tokens + 16, 8),),
        tested=TESTED,
    )


SEAMS = (
    _seam("PatchDropout", patch_dropout_forward),
    _seam("PatchDropoutWithIndices", patch_dropout_with_indices_forward),
)
