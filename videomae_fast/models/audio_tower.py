"""The audio tower of InternVideo2's second stage: BEATs, a post-norm transformer over patches of a log-mel spectrogram.

Attention has no mask of its own; a bias for each distance of two patches is scaled by a gate of the query.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear


@dataclass(frozen=True)
class BeatsConfig:
    """A BEATs, and the spectrograms that it reads.

    Args:
        dim: H, the width.
        depth: layers.
        heads: attention heads; they divide dim.
        hidden: hidden units of a layer's MLP.
        patch_dim: width of the patches before they are projected to `dim`.
        patch_size: height and width of a patch, in windows and mel bands.
        conv_kernel: patches that the convolution of positions spans.
        conv_groups: groups of its channels; they divide dim.
        buckets: rows of the table of distances, a multiple of 4.
        max_distance: the distance of patches from which on all share a row.
        deep_norm: whether the residual is multiplied by (2·depth)^(1/4), as in all published weights.
        num_windows: T, the windows of a spectrogram; 998 in 10 seconds.
        num_mels: M, its mel bands; 64 in InternVideo2, 128 in BEATs.
        norm_eps: eps of all LayerNorms.

    Raises:
        ValueError: numbers do not fit together, or are out of range; the message names the field.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    patch_dim: int = 512
    patch_size: int = 16
    conv_kernel: int = 128
    conv_groups: int = 16
    buckets: int = 320
    max_distance: int = 800
    deep_norm: bool = True
    num_windows: int = 998
    num_mels: int = 64
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("deep_norm", "norm_eps") and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("heads", "conv_groups"):
            if self.dim % getattr(self, name):
                raise ValueError(f"dim {self.dim} is not divisible by {name} {getattr(self, name)}")
        if self.buckets % 4 or self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"buckets must be a multiple of 4, and max_distance more than a quarter of it, got {self.buckets} and "
                f"{self.max_distance}"
            )
        if min(self.num_windows, self.num_mels) < self.patch_size:
            raise ValueError(
                f"patch_size {self.patch_size} is larger than a spectrogram of {self.num_windows}x{self.num_mels}"
            )

    @property
    def num_tokens(self) -> int:
        """S, the whole patches of a spectrogram: 62·4 = 248 in 10 seconds of 64 bands."""
        return (self.num_windows // self.patch_size) * (self.num_mels // self.patch_size)


class AudioRows(NamedTuple):
    """What an audio tower makes of spectrograms.

    Attributes:
        tokens: (B, S, H), one row for each patch, in the order (time, band).
        pooled: (B, H), their mean.
    """

    tokens: Tensor
    pooled: Tensor


class AudioTower(nn.Module):
    """BEATs.

        x      = post_extract_proj(layer_norm(patch_embedding(spectrogram)))
        x      = encoder.layer_norm(x + gelu(pos_conv(x)))
        x      = norm₁(a·x + attention(x));   x = norm₂(a·x + fc2(gelu(fc1(x))))     of each layer, a = (2·depth)^(1/4)
        pooled = mean of the tokens

    where attention is softmax(q·k/√d + gate(q) ⊙ table[bucket(j − i)]) v, with

        gate = α (β·grep_a − 1) + 2,   (α, β) = σ(the sums of the halves of grep_linear(q))

    The table is that of the first layer. Its state_dict has the names and shapes of the published checkpoints, and of
    `audio_encoder.` in those of InternVideo2's second stage, without the copies of the table in later layers. There is
    no dropout, which published weights set to 0, and no layer is dropped.

    Args:
        config: the model.

    Attributes:
        dim: H.

    References:
        BEATs, arXiv 2212.09058; beats/{BEATs,backbone}.py of microsoft/unilm, and models/backbones/beats of
        OpenGVLab/InternVideo, InternVideo2/multi_modality, which are the same.
    """

    post_extract_proj: Linear | None

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(1, config.patch_dim, size, stride=size, bias=False)
        self.layer_norm = nn.LayerNorm(config.patch_dim, eps=config.norm_eps)
        self.post_extract_proj = None
        if config.patch_dim != config.dim:
            self.post_extract_proj = Linear(config.patch_dim, config.dim)
        self.encoder = _Encoder(config)

    def forward(self, spectrogram: Tensor) -> AudioRows:
        """Rows of sounds.

        Args:
            spectrogram: (B, T, M) floating, normalised, as `log_mel` makes it; zeros where there is no sound.

        Returns:
            The rows.

        Raises:
            ValueError: another shape.
            TypeError: `spectrogram` is not floating.
        """
        shape = self.config.num_windows, self.config.num_mels
        if not spectrogram.is_floating_point():
            raise TypeError(f"spectrogram must be floating, got {spectrogram.dtype}")
        if spectrogram.ndim != 3 or tuple(spectrogram.shape[1:]) != shape:
            raise ValueError(f"spectrogram must be (B, {shape[0]}, {shape[1]}), got {tuple(spectrogram.shape)}")
        x = self.layer_norm(self.patch_embedding(spectrogram[:, None]).flatten(2).transpose(1, 2))
        if self.post_extract_proj is not None:
            x = linear(x, self.post_extract_proj)
        tokens = self.encoder(x)
        return AudioRows(tokens, tokens.mean(1))


class _Encoder(nn.Module):
    _no_split_modules = ("_Layer",)  # transformers' name for units of FSDP2

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList([_PositionConv(config)])
        self.layer_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.layers = nn.ModuleList(_Layer(config, first=number == 0) for number in range(config.depth))
        self.register_buffer("buckets", distance_buckets(config), persistent=False)
        self._initialise(config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.pos_conv[0](x))
        table = self.layers[0].self_attn.relative_attention_bias  # type: ignore[union-attr]
        bias = table(self.buckets).permute(2, 0, 1)  # type: ignore[operator]
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def _initialise(self, config: BeatsConfig) -> None:
        """The published start: normal of deviation 0.02, and Xavier's, scaled by depth, in the layers."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        small = (8 * config.depth) ** -0.25 if config.deep_norm else 1.0
        for name, module in self.layers.named_modules():
            if isinstance(module, nn.Linear) and config.deep_norm and not name.endswith("grep_linear"):
                nn.init.xavier_normal_(module.weight, gain=1.0 if name.endswith(("q_proj", "k_proj")) else small)


class _PositionConv(nn.Module):
    """gelu of a grouped convolution over patches, whose kernel is weight_g · weight_v / ‖weight_v‖ at each place."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.groups = config.conv_groups
        kernel = torch.randn(config.dim, config.dim // config.conv_groups, config.conv_kernel)
        self.weight_v = nn.Parameter(kernel * math.sqrt(4 / (config.conv_kernel * config.dim)))
        self.weight_g = nn.Parameter(_norm(self.weight_v.detach()))
        self.bias = nn.Parameter(torch.zeros(config.dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) → (B, S, H)."""
        kernel = self.weight_v * (self.weight_g / _norm(self.weight_v))
        size = kernel.shape[2]
        y = F.conv1d(x.transpose(1, 2), kernel, self.bias, padding=size // 2, groups=self.groups)
        return F.gelu(y[:, :, : x.shape[1]]).transpose(1, 2)  # an even kernel gives one row too many


def _norm(kernel: Tensor) -> Tensor:
    return torch.linalg.vector_norm(kernel, dim=(0, 1), keepdim=True)


class _Layer(nn.Module):
    def __init__(self, config: BeatsConfig, first: bool) -> None:
        super().__init__()
        self.scale = (2 * config.depth) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = _Attention(config, first)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.fc1 = Linear(config.dim, config.hidden)
        self.fc2 = Linear(config.hidden, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(self.scale * x + self.self_attn(x, bias))
        normed: Tensor = self.final_layer_norm(self.scale * x + linear(F.gelu(linear(x, self.fc1)), self.fc2))
        return normed


class _Attention(nn.Module):
    def __init__(self, config: BeatsConfig, first: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(config.dim, config.dim) for _ in range(4))
        self.grep_linear = Linear(config.dim // config.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, config.heads, 1, 1))
        if first:
            self.relative_attention_bias = nn.Embedding(config.buckets, config.heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, S, H), bias (heads, S, S) → (B, S, H)."""
        layers = self.q_proj, self.k_proj, self.v_proj
        q, k, v = (linear(x, layer).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in layers)
        halves = linear(q, self.grep_linear).unflatten(3, (2, 4)).sum(4).sigmoid()
        gate = halves[..., :1] * (halves[..., 1:] * self.grep_a - 1) + 2
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(gate * bias).to(q.dtype))
        return linear(y.transpose(1, 2).flatten(2), self.out_proj)


def distance_buckets(config: BeatsConfig) -> Tensor:
    """The rows of the table that pairs of patches use.

    With n = buckets / 2 and d = |j − i|, a key j after its query i has the rows from n on, and of these

        d                                                       for d < n/2
        min(n/2 + ⌊n/2 · ln(2d/n) / ln(2·max_distance/n)⌋, n − 1)     else

    Args:
        config: the model.

    Returns:
        (S, S) int64: of query i and key j.
    """
    place = torch.arange(config.num_tokens)
    offset = place[None] - place[:, None]
    half, exact = config.buckets // 2, config.buckets // 4
    # In float32 and by the published steps: a rounding would put a distance in another row.
    ratio = (offset.abs().clamp_min(1).float() / exact).log() / math.log(config.max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp_max(half - 1)
    return (offset > 0) * half + torch.where(offset.abs() < exact, offset.abs(), far)
