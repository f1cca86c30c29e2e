"""Triton kernels of the pixel ops. Nothing here is imported before a kernel is needed."""

from collections.abc import Sequence

from torch import Tensor

from ..reference import is_cropped
from . import clip as of_tensor
from . import crops


def launch(
    mode: str,
    clip: Sequence[Tensor],
    shape: Sequence[int],
    index: Tensor,
    patch: Sequence[int],
    scale: Sequence[float],
    shift: Sequence[float],
    out: Tensor,
    *,
    normalize: bool = False,
    pred: Tensor | None = None,
    grad: Tensor | None = None,
) -> None:
    """Launch a pixel kernel on a tensor clip or on crops.

    Args:
        mode: what becomes of a token's pixels: "gather" (rows of the patch embedding), "targets", "loss" (of each
            row) or "gradient" (of `pred`).
        clip, shape, index, patch, scale, shift: as in `OpenClip`.
        out: what the kernel fills.
        normalize: whether targets are normalised.
        pred: (B, K, P) predictions, for "loss" and "gradient".
        grad: (B, K) gradient of the row losses, for "gradient".
    """
    # A kernel does not look at the pointers that its mode has no use for.
    pred = out if pred is None else pred if pred.stride(-1) == 1 else pred.contiguous()
    grad = out if grad is None else grad
    of_kind = crops.launch if is_cropped(clip) else of_tensor.launch
    of_kind(mode, clip, shape, index, patch, scale, shift, normalize, pred, grad, out)
