"""Every op by index, in plain PyTorch: a rewrite of the published code without its waste.

Our ops have to beat these rewrites, eager and compiled (torch.compile). No rewrite makes a host sync, and none
touches the tokens that the masks drop. Tokens are in (t, h, w) order, w fastest; a patch is (τ, p, p).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Affine = tuple[Tensor, Tensor]  # scale and shift of every channel, (C, 1, 1, 1)
CHUNK = 1024  # rows of x in losses of all pairs
FIXED_POINT = 2**22  # Pillow's weights are integers in this unit


def random_index(batch: int, positions: int, keep: int, frames: int, device: torch.device) -> Tensor:
    """(B, frames · keep) ascending: `keep` random positions of each sample, the same in every frame."""
    kept = torch.rand(batch, positions, device=device).argsort(dim=1)[:, :keep].sort(dim=1).values
    first = torch.arange(frames, device=device)[:, None] * positions
    return (kept[:, None] + first).flatten(1)


def weighted_index(weights: Tensor, keep: int) -> Tensor:
    """(B, G · keep) ascending: in each group of weights (B, G, P) `keep` positions drawn without replacement."""
    batch, groups, positions = weights.shape
    kept = torch.multinomial(weights.flatten(0, 1), keep).sort(dim=1).values.view(batch, groups, keep)
    return (kept + torch.arange(groups, device=weights.device)[:, None] * positions).flatten(1)


def mask_to_index(mask: Tensor, count: int) -> Tensor:
    """(B, count) positions of True in a (B, N) mask, ascending."""
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def running_cell_select(visible: Tensor, phase: Tensor, grid: Sequence[int], hidden: int, count: int) -> Tensor:
    """(B, count) decoded tokens, tokens in `visible` (B, V) first; each cell hides `hidden` of its four slots."""
    t, h, w = (torch.arange(size, device=visible.device) for size in grid)
    slot = t[:, None, None] + 2 * (h[:, None] % 2) + w % 2 + 1
    decoded = (slot.flatten() + phase[:, None]) % 4 >= hidden
    seen = torch.zeros_like(decoded).scatter(1, visible, True)
    rank = 2 - decoded.to(torch.uint8) - (decoded & seen).to(torch.uint8)
    return rank.argsort(dim=1, stable=True)[:, :count]


def changed_token_index(clip: Tensor, count: int, patch: Sequence[int]) -> Tensor:
    """(B, count) tokens of a (B, C, T, H, W) clip that change most since the token before, all first frames' included.

    Of a uint8 clip in integers. Only the two frames of each token that are compared are read.
    """
    frames, height, width = patch
    last, before = clip[:, :, 2 * frames - 1 :: frames], clip[:, :, :-frames:frames]
    if clip.dtype == torch.uint8:
        difference = torch.maximum(last, before) - torch.minimum(last, before)
    else:
        difference = (last - before).abs()
    scores = difference.unflatten(4, (-1, width)).unflatten(3, (-1, height)).sum((1, 4, 6)).flatten(1)
    first = clip.shape[3] // height * (clip.shape[4] // width)
    most = scores.argsort(dim=1, descending=True, stable=True)[:, : count - first].sort(dim=1).values + first
    return torch.cat([torch.arange(first, device=clip.device).expand(len(clip), -1), most], dim=1)


@torch.compiler.disable  # unrolled over many sizes: 8 s of compiling for 16 clips, and on a CPU no faster afterwards
def resize_crops(
    crops: Sequence[Tensor], size: tuple[int, int], resize: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, C, T, H, W) values in [0, 255] of uint8 crops (T, h, w, C), one by one, since they differ in size.

    `resize` as in CroppedClips; "pillow" gives Pillow's integers.
    """
    frames, _, _, channels = crops[0].shape
    clips = torch.empty(len(crops), frames, channels, *size, dtype=dtype, device=crops[0].device)
    for clip, crop in zip(clips, crops, strict=True):
        planes = crop.permute(0, 3, 1, 2)
        if resize == "pillow":
            clip.copy_(_resize_as_pillow(planes, size))
        else:
            clip.copy_(F.interpolate(planes.to(dtype), size, mode="bilinear", antialias=resize == "antialias"))
    return clips.transpose(1, 2)


def _resize_as_pillow(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Float64, which holds every sum exactly: width first, rounded, then height, rounded."""
    down, across = (_pillow_weights(side, out, planes.device) for side, out in zip(planes.shape[2:], size, strict=True))
    return _round(down @ _round(planes.double() @ across.T))


def warp_clips(
    sources: Sequence[Tensor], matrix: Tensor, size: tuple[int, int], fill: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, C, T, H, W) of one uint8 source (T, h, w, C) for each clip, one by one, since sources differ in size.

    `matrix` (B, 2, 3) is that of `videomae_kernels.warp_clips`; `F.affine_grid` counts positions from −1 to 1.
    """
    last = torch.tensor([0.0, 0.0, 1.0], dtype=dtype, device=matrix.device)
    clips = []
    for source, of_clip in zip(sources, matrix.to(dtype), strict=True):
        frames, height, width, channels = source.shape
        to_pixels, to_units = _from_units(*size, like=last), torch.linalg.inv(_from_units(height, width, like=last))
        theta = (to_units @ torch.cat([of_clip, last[None]]) @ to_pixels)[None, :2]
        grid = F.affine_grid(theta, [1, channels, *size], align_corners=False)
        planes = source.permute(0, 3, 1, 2).to(dtype)
        clip = F.grid_sample(planes, grid.expand(frames, -1, -1, -1), padding_mode="border", align_corners=False)
        inside = ((grid >= -1) & (grid < 1)).all(-1)
        clips.append(torch.where(inside, clip.transpose(0, 1), fill))
    return torch.stack(clips)


def _from_units(height: int, width: int, like: Tensor) -> Tensor:
    """The matrix (3, 3) from positions in [−1, 1] to positions in pixels."""
    numbers = [[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device)


@lru_cache
def _pillow_weights(side: int, out: int, device: torch.device) -> Tensor:
    return (axis_weights(side, out, antialias=True) * FIXED_POINT + 0.5).floor().to(device)


def axis_weights(side: int, out: int, antialias: bool) -> Tensor:
    """(out, side) float64 weights of F.interpolate along one axis: its result for unit vectors."""
    units = torch.eye(side, dtype=torch.float64)[None, None]
    return F.interpolate(units, (out, side), mode="bilinear", antialias=antialias)[0, 0]


def _round(sums: Tensor) -> Tensor:
    return sums.add_(FIXED_POINT // 2).div_(FIXED_POINT).floor_()


def gather_pixels(clip: Tensor, index: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, K, C, τ, p, p) pixels of listed tokens of a (B, C, T, H, W) clip of any strides."""
    blocks = clip.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    blocks = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    height, width = blocks.shape[2:4]
    sample = torch.arange(index.shape[0], device=index.device)[:, None]
    return blocks[sample, index // (height * width), index // width % height, index % width]


def pixel_values(clip: Tensor, index: Tensor, patch: Sequence[int], affine: Affine | None) -> Tensor:
    """`gather_pixels`, scaled and shifted by `affine`, if it is given."""
    pixels = gather_pixels(clip, index, patch)
    return pixels if affine is None else pixels * affine[0] + affine[1]


def tube_mask_gather(
    clip: Tensor, index: Tensor, patch: Sequence[int], affine: Affine | None, dtype: torch.dtype
) -> Tensor:
    """(B, K, P) rows in the order of a Conv3d weight."""
    return pixel_values(clip, index, patch, affine).flatten(2).to(dtype)


def embed_tokens(rows: Tensor, index: Tensor, weight: Tensor, bias: Tensor, position: Tensor) -> Tensor:
    """(B, K, D) embedded rows (B, K, P) with their positions, a table (N, D)."""
    return F.linear(rows, weight.flatten(1), bias) + position.to(rows.dtype)[index]


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """(B, K, D) rows of (B, N, D)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def masked_token_scatter(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor) -> Tensor:
    """(B, N, D): tokens (B, K, D) at their places, the mask token (D,) at all others."""
    full = mask_token.expand(tokens.shape[0], num_tokens, -1)
    return full.scatter(1, index[..., None].expand_as(tokens), tokens)


def assemble_decoder_tokens(
    tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decode: Tensor
) -> Tensor:
    """(B, V + M, d): visible tokens, then mask tokens, each with its position of a table (N, d)."""
    return torch.cat((tokens + position[visible], mask_token + position[decode]), dim=1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalised rows, in the precision of x."""
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def add_layer_norm(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A residual addition, and the norm of the sum."""
    total = x + branch
    return total, layer_norm(total, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Rows over their root mean square, in the precision of x."""
    return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def add_rms_norm(x: Tensor, branch: Tensor, weight: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A residual addition of a scaled branch, and the norm of the sum."""
    total = torch.addcmul(x, branch, scale.to(x.dtype))
    return total, rms_norm(total, weight, eps)


def add_drawn_norm(
    x: Tensor, branch: Tensor, weight: Tensor, scale: Tensor, ran: Tensor, runs: Tensor, factor: float, eps: float
) -> tuple[Tensor, Tensor]:
    """A scaled branch of the samples `ran` is added, and the samples `runs` of the sum are normalised."""
    total = x.index_add(0, ran, branch * scale.to(x.dtype), alpha=factor)
    return total, rms_norm(total.index_select(0, runs), weight, eps)


class BiasOfLinear(torch.autograd.Function):
    """What the bias of a linear map costs besides its product: nothing forward, a sum over all rows backward."""

    @staticmethod
    def forward(biased: Tensor, bias: Tensor) -> Tensor:
        """The product with its bias, as it comes from the GEMM."""
        return biased.view_as(biased)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.flatten(0, -2).sum(0).to(ctx.dtype)


def bias_gelu(biased: Tensor, bias: Tensor) -> Tensor:
    """GELU of a linear map's result, whose bias is already in it."""
    return F.gelu(BiasOfLinear.apply(biased, bias))


def alignment_loss(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean of 2 − 2·cosine of normalised rows and a teacher's, in float32."""
    rows = F.layer_norm(x.float(), x.shape[-1:], weight, bias)
    return (2 - 2 * F.cosine_similarity(rows, target.float(), dim=-1)).mean()


def clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss in float32, a chunk of rows at a time, whose logits backward makes again."""

    def of_chunk(part: Tensor, y: Tensor, scale: Tensor, first: int) -> tuple[Tensor, Tensor]:
        logits = scale * (part @ y.T)
        return (logits.logsumexp(1) / 2 - logits.diagonal(first)).sum(), logits.logsumexp(0)

    x, y = (side if side.dtype == torch.float64 else side.float() for side in (x, y))
    total, columns = x.new_zeros(()), x.new_full((len(y),), -torch.inf)
    for first in range(0, len(x), CHUNK):
        of_rows, of_columns = checkpoint(of_chunk, x[first : first + CHUNK], y, scale, first, use_reentrant=False)
        total, columns = total + of_rows, torch.logaddexp(columns, of_columns)
    return total / len(x) + columns.mean() / 2


def siglip_loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's loss in float32, a chunk of rows at a time, whose logits backward makes again."""

    def of_chunk(part: Tensor, y: Tensor, scale: Tensor, bias: Tensor, first: int) -> Tensor:
        logits = scale * (part @ y.T) + bias
        return -F.logsigmoid(-logits).sum() - logits.diagonal(first).sum()  # log σ(s) = log σ(−s) + s

    x, y = (side if side.dtype == torch.float64 else side.float() for side in (x, y))
    chunks = [
        checkpoint(of_chunk, x[first : first + CHUNK], y, scale, bias, first, use_reentrant=False)
        for first in range(0, len(x), CHUNK)
    ]
    return torch.stack(chunks).sum() / len(x)


def patch_targets(clip: Tensor, index: Tensor, patch: Sequence[int], affine: Affine | None) -> Tensor:
    """(B, K, P) targets, channel fastest, normalised per token and channel."""
    pixels = pixel_values(clip, index, patch, affine).flatten(3)
    variance, mean = torch.var_mean(pixels, dim=3, keepdim=True)
    return ((pixels - mean) / (variance.sqrt() + 1e-6)).transpose(2, 3).flatten(2)


def masked_patch_loss(pred: Tensor, clip: Tensor, index: Tensor, patch: Sequence[int], affine: Affine | None) -> Tensor:
    """Mean squared error of pred (B, K, P) against `patch_targets`."""
    target = patch_targets(clip, index, patch, affine)
    return F.mse_loss(pred.to(target.dtype), target)
