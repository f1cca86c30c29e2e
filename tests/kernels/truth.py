"""The mathematics of the ops in float64, written from their formulas and from nothing in the package."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF


def token_position(index: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(t, h, w) of tokens numbered with w fastest."""
    index = index.long()
    return index // (grid[1] * grid[2]), index // grid[2] % grid[1], index % grid[2]


def pixels(clip: Tensor, index: Tensor, patch: Sequence[int], layout: str = "BCTHW") -> Tensor:
    """(B, K, C, τ, p, p) float64 pixels of the listed tokens; uint8 is brought to [0, 1]."""
    video = torch.einsum(f"{layout.lower()}->bcthw", clip.double())
    if clip.dtype == torch.uint8:
        video = video / 255
    grid = [size // side for size, side in zip(video.shape[2:], patch, strict=True)]
    samples = []
    for b in range(index.shape[0]):
        tokens = []
        for t, h, w in zip(*(x.tolist() for x in token_position(index[b], grid)), strict=True):
            start = (t * patch[0], h * patch[1], w * patch[2])
            box = tuple(slice(first, first + size) for first, size in zip(start, patch, strict=True))
            tokens.append(video[(b, slice(None), *box)])
        samples.append(torch.stack(tokens))
    return torch.stack(samples)


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al., SC 2011) on Python integers."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right & MASK32, (left >> 32) ^ d ^ k1, left & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return a, b, c, d


def weighted_tokens(weights: Tensor, keep: int, sample: Tensor, seed: int, stream: int = 0) -> Tensor:
    """(B, G · keep) tokens of the smallest -log U / w of each group, by Python's logarithm."""
    key, kept = (int(seed) & MASK32, int(seed) >> 32), []
    for of_groups, number in zip(weights.float().tolist(), sample.tolist(), strict=True):
        row = []
        for group, of_tokens in enumerate(of_groups):
            first = group * len(of_tokens)
            scores = []
            for n, weight in enumerate(of_tokens, first):
                word = philox((n, number & MASK32, number >> 32 & MASK32, stream), key)[0] >> 1
                scores.append((-math.log((2 * word + 1) / 2**32) / weight if weight else math.inf, n))
            row += sorted(n for _, n in sorted(scores)[: int(keep)])
        kept.append(row)
    return torch.tensor(kept, dtype=torch.int64).view(len(sample), -1)


def changed_tokens(clip: Tensor, count: int, patch: Sequence[int], layout: str = "BCTHW") -> Tensor:
    """(B, count) tokens of the largest change since the token before, and all of the first frames, in float64."""
    video = torch.einsum(f"{layout.lower()}->bcthw", clip.double())
    grid = [size // side for size, side in zip(video.shape[2:], patch, strict=True)]
    index = torch.arange(grid[0] * grid[1] * grid[2])
    of_tokens = pixels(video, index.expand(len(video), -1), patch)  # B, N, C, τ, p, p
    kept = []
    for tokens in of_tokens:
        scores = [math.inf] * (grid[1] * grid[2])
        for now in range(len(scores), len(tokens)):
            change = tokens[now, :, -1] - tokens[now - grid[1] * grid[2], :, 0]
            score = float(change.abs().mean())
            scores.append(math.inf if math.isnan(score) else score)
        first = grid[1] * grid[2]
        # Python's sort keeps the order of equal scores.
        others = sorted(range(first, len(tokens)), key=lambda n: -scores[n])[: count - first]
        kept.append([*range(first), *sorted(others)])
    return torch.tensor(kept, dtype=torch.int64).view(len(video), count)


def channels(values: Sequence[float], like: Tensor) -> Tensor:
    """Per-channel values against (…, C, τ, p, p)."""
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None, None, None]


def normalized(value: Tensor, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    if mean_std is None:
        return value
    return (value - channels(mean_std[0], value)) / channels(mean_std[1], value)


def denormalized(value: Tensor, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    if mean_std is None:
        return value
    return value * channels(mean_std[1], value) + channels(mean_std[0], value)


def targets(value: Tensor, normalize: bool = True) -> Tensor:
    """(B, K, P) channel-fastest targets from (B, K, C, τ, p, p) pixels (published `train_one_epoch`)."""
    columns = value.flatten(3).mT  # B, K, pixels, C
    if normalize:
        mean = columns.mean(2, keepdim=True)
        variance = (columns - mean).square().sum(2, keepdim=True) / (columns.shape[2] - 1)
        columns = (columns - mean) / (variance.sqrt() + 1e-6)
    return columns.flatten(2)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Rows of x normalised, in float64."""
    x = x.double()
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double() + bias.double()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Rows of x over their root mean square, in float64."""
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """z · Φ(z) of z = x + bias, in float64."""
    value = x.double() + bias.double()
    return value * torch.special.ndtr(value)


def alignment_loss(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Mean squared distance of normalised rows of x and of rows of the target, each of length 1, in float64."""
    ends = layer_norm(x, weight, bias, eps), target.double()
    student, teacher = (end / end.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12) for end in ends)
    return (2 - 2 * (student * teacher).sum(-1)).mean()


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    kind: str = "clip",
    x_ids: Tensor | None = None,
    y_ids: Tensor | None = None,
) -> Tensor:
    """CLIP's or SigLIP's loss from the whole matrix of logits, in float64."""
    logits = scale.double() * (x.double() @ y.double().T)
    positive = torch.eye(len(x), dtype=torch.bool, device=x.device)
    for ids in (x_ids, y_ids):
        if ids is not None:
            positive |= ids[:, None] == ids
    if kind == "siglip":
        logits = logits if bias is None else logits + bias.double()
        away = torch.where(positive, -logits, logits)
        return torch.logaddexp(torch.zeros_like(away), away).sum() / len(x)  # −log σ(−z) = log(1 + exp(z))
    target = positive.double() / positive.sum(1, keepdim=True)
    losses = [-torch.where(positive, target * s.log_softmax(1), 0).sum() / len(x) for s in (logits, logits.T)]
    return (losses[0] + losses[1]) / 2


def warped(source: Tensor, matrix: Tensor, size: Sequence[int], fill: float) -> tuple[Tensor, Tensor]:
    """Frames (T, h, w, C) sampled where a matrix (2, 3) sends the pixels of `size`, in float64, (C, T, H, W).

    Also the distance (H, W) of each point from the edge of the source: there rounding decides on which side it lies.
    """
    height, width = source.shape[1:3]
    y, x = (torch.arange(side).double() + 0.5 for side in size)
    points = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x)), torch.ones(len(y), len(x))])
    u, v = torch.einsum("ij,jyx->iyx", matrix.double(), points.double())
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    distance = torch.stack([-u, u - width, -v, v - height]).amax(0).abs()
    left, top = (u - 0.5).floor(), (v - 0.5).floor()
    total = torch.zeros(source.shape[3], source.shape[0], *size, dtype=torch.float64)
    for line in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - (v - 0.5 - line).abs()) * (1 - (u - 0.5 - column).abs())
            pixel = source[:, line.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
            total += pixel.permute(3, 0, 1, 2) * weight
    return torch.where(inside, total, fill), distance
