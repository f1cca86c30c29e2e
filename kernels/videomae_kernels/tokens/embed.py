"""embed_tokens: the patch embedding of the kept tokens, with their positions, and of no others."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import FLOATING, check_tensor
from ..pixels.clip import DIMENSIONS, ChannelStats, num_tokens, open_clip
from ..pixels.crops import CroppedClips
from ..pixels.gather import gather_op as gather_pixels
from .rows import gather_op as gather_rows


def embed_tokens(
    clip: Tensor | CroppedClips,
    index: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    *,
    layout: str = DIMENSIONS,
    normalize: ChannelStats | None = None,
) -> Tensor:
    """Patch embedding and positions of the listed tokens.

        out[b, k] = weight.flatten(1) @ pixels(b, index[b, k]) + bias + position[index[b, k]]

    Equals `(F.conv3d(clip, weight, bias, stride=patch).flatten(2).mT + position)[~mask].reshape(B, K, D)`. Made of
    `tube_mask_gather`, one GEMM with the bias, and `gather_tokens` of the positions, added in place; of a table that
    learns, `F.embedding`, which sums the gradient over the batch in the table's dtype. Autocast applies as to
    `F.linear`. Differentiable in every floating tensor.

    Args:
        clip: uint8 in [0, 255] or floating, of any strides, five dimensions in the order of `layout`; or
            `CroppedClips`.
        index: (B, K) int32 or int64 token numbers in (t, h, w) order, w fastest, unique per sample.
        weight: (D, C, τ, p, p) floating, as Conv3d's; its last three sizes are the patch.
        bias: (D,) floating.
        position: (N, D) floating, fixed or learnable.
        layout: order of the clip's dimensions, a permutation of "BCTHW". `CroppedClips` have no use for it.
        normalize: (mean, std) of each channel for pixels in [0, 1]; None leaves them as they are.

    Returns:
        (B, K, D) in the dtype of `weight`, or in the autocast dtype.

    Raises:
        ValueError: a shape, device or value of an argument is not allowed.
        TypeError: a dtype of an argument is not allowed.

    References:
        `PretrainVisionTransformerEncoder.forward_features` of VideoMAE V2, models/modeling_pretrain.py
        (OpenGVLab/VideoMAEv2).
    """
    check_tensor(weight, "weight", FLOATING, ("D", "C", "τ", "p", "p"))
    width, channels, *patch = weight.shape
    if weight.numel() == 0:
        raise ValueError(f"weight must have shape (D, C, τ, p, p) without a 0, got {tuple(weight.shape)}")
    opened = open_clip(clip, index, patch, layout, normalize=normalize)
    if opened.shape[1] != channels:
        raise ValueError(f"clip has {opened.shape[1]} channels, weight expects {channels}")
    tokens = num_tokens(opened.shape, opened.patch)
    check_tensor(weight, "weight", FLOATING, (width, channels, *patch), opened.listed)
    check_tensor(bias, "bias", FLOATING, (width,), opened.listed)
    check_tensor(position, "position", FLOATING, (tokens, width), opened.listed)
    dtype, device = weight.dtype, weight.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    rows = gather_pixels(*opened, dtype)
    # Bias in the GEMM's epilogue: a matrix of biases and positions would be copied once more to accumulate into it.
    out = torch.addmm(bias.to(dtype), rows.flatten(0, 1), weight.flatten(1).t().to(dtype))
    if position.requires_grad:  # its gradient is summed over the batch, in its dtype; the other's is a table per sample
        positions = F.embedding(opened.listed, position).to(dtype)
    else:
        positions = gather_rows(position.to(dtype).expand(opened.shape[0], -1, -1), opened.listed)
    return out.add_(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
