"""embed_tokens: the patch embedding of the kept tokens, with their positions, and of no others.

    out[b, k] = weight.flatten(1) @ pixels(b, index[b, k]) + bias + position[index[b, k]]

Equals `(F.conv3d(clip, weight, bias, stride=patch).flatten(2).mT + position)[~mask].reshape(B, K, D)`
(VideoMAE V2, `PretrainVisionTransformerEncoder.forward_features`). Bias and position rows are laid down first and
one GEMM accumulates into them: `tube_mask_gather`, `gather_tokens`, `torch.addmm`. Autocast applies as to `F.linear`.
"""

import torch
from torch import Tensor

from .._checks import check_device, check_floating, check_shape
from ..pixels.crops import CroppedClips
from ..pixels.gather import tube_mask_gather
from ..pixels.reference import ChannelStats, as_bcthw, num_tokens
from .rows import gather_tokens


def embed_tokens(
    clip: Tensor | CroppedClips,  # five dimensions in the order of `layout`, any strides, uint8 or floating
    index: Tensor,  # (B, K) int32/int64 tokens in (t, h, w) order, unique per sample
    weight: Tensor,  # (D, C, τ, p, p), as Conv3d's; its last three sizes are the patch size
    bias: Tensor,  # (D,)
    position: Tensor,  # (N, D), fixed or learnable
    *,
    layout: str = "BCTHW",
    normalize: ChannelStats | None = None,  # (mean, std) per channel, for pixels in [0, 1]
) -> Tensor:  # (B, K, D), dtype of weight, or the autocast dtype
    """Embedded kept tokens; see the module docstring for the mathematics. Differentiable in every tensor."""
    check_floating(weight, "weight")
    if weight.ndim != 5:
        raise ValueError(f"weight must have shape (D, C, τ, p, p), got {tuple(weight.shape)}")
    width, channels, *patch_size = weight.shape
    view = clip if isinstance(clip, CroppedClips) else as_bcthw(clip, layout, patch_size)
    like = clip.frames if isinstance(clip, CroppedClips) else clip
    if view.shape[1] != channels:
        raise ValueError(f"clip has {view.shape[1]} channels ({layout}), weight expects {channels}")
    for tensor, name in ((weight, "weight"), (bias, "bias"), (position, "position")):
        check_device(tensor, name, like)
    check_shape(bias, "bias", (width,))
    check_shape(position, "position", (num_tokens(view, patch_size), width))
    dtype = weight.dtype
    if torch.is_autocast_enabled(clip.device.type):
        dtype = torch.get_autocast_dtype(clip.device.type)
    rows = tube_mask_gather(view, index, patch_size, normalize=normalize, dtype=dtype)
    base = gather_tokens(position.to(dtype).expand(view.shape[0], -1, -1), index) + bias.to(dtype)
    out = torch.addmm(base.flatten(0, 1), rows.flatten(0, 1), weight.flatten(1).t().to(dtype))
    return out.unflatten(0, base.shape[:2])
