"""The published VideoMAE V2 classifier in plain PyTorch: what exactness tests and speed figures compare with.

The mathematics, the order of the operations and the parameter names follow models/modeling_finetune.py of the release,
with mean pooling, as all of its scripts use it. Every branch is computed for every sample and multiplied by its drop
path factor; the mean over tokens is taken after the last block. Nothing is slower than it was published. Dropout of
tokens and attention, LayerScale and cosine attention, which all scripts leave off, are absent.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .model import Attention, LayerNorm, Mlp, PatchEmbed, _table_like, sinusoid_table


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, attention: str, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads, attention)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.rate = drop_path

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        first, second = (None, None) if keep is None else keep
        x = x + self.drop_path(self.attn(self.norm1(x)), first)
        return x + self.drop_path(self.mlp(self.norm2(x)), second)

    def drop_path(self, branch: Tensor, keep: Tensor | None) -> Tensor:
        """A branch of the samples that `keep` (B,) says, or that are drawn, scaled by 1 / (1 - rate)."""
        if self.rate == 0 or not self.training:
            return branch
        shape = (branch.shape[0], 1, 1)
        kept = torch.rand(shape, device=branch.device) >= self.rate if keep is None else keep.view(shape)
        return branch.div(1 - self.rate) * kept.to(branch.dtype)


class PublishedClassifier(nn.Module):
    """VideoMAE V2's VisionTransformer; `state_dict()` has the names and shapes of the published checkpoints.

    forward(clip, keep=None) -> (B, C): clip (B, 3, T, H, W) normalised with ImageNet's mean and std; keep (L, 2, B)
    bool says which samples keep the branches of each block in training, None draws. `attention` is "eager" (as
    published) or "sdpa"; `checkpointing` recomputes each block in the backward pass. The position table is the sinusoid
    of N tokens, a plain CPU tensor that is expanded and moved at every step.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        image_size: tuple[int, int] = (224, 224),
        num_frames: int = 16,
        tubelet_size: int = 2,
        patch_size: int = 16,
        encoder_dim: int,
        encoder_depth: int,
        encoder_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        init_scale: float = 0.001,
        attention: str = "eager",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ("eager", "sdpa"):
            raise ValueError(f"attention is {attention!r}; allowed: 'eager', 'sdpa'")
        height, width = image_size
        tokens = (num_frames // tubelet_size) * (height // patch_size) * (width // patch_size)
        rates = [drop_path * i / max(encoder_depth - 1, 1) for i in range(encoder_depth)]
        self.checkpointing = checkpointing
        self.patch_embed = PatchEmbed(encoder_dim, image_size, (tubelet_size, patch_size, patch_size))
        self.pos_embed = sinusoid_table(tokens, encoder_dim)
        self.blocks = nn.ModuleList(Block(encoder_dim, encoder_heads, mlp_ratio, attention, rate) for rate in rates)
        self.fc_norm = LayerNorm(encoder_dim)
        self.fc_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(encoder_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.head.weight.data.mul_(init_scale)
        self.head.bias.data.mul_(init_scale)

    @classmethod
    def from_config(cls, config: Any, num_classes: int, **options: Any) -> "PublishedClassifier":
        """The published model of the sizes in a VideoMAEConfig; `options` as the constructor takes them."""
        names = ["image_size", "num_frames", "tubelet_size", "patch_size", "mlp_ratio", "drop_path"]
        names += [f"encoder_{size}" for size in ("dim", "depth", "heads")]
        return cls(num_classes, **{name: getattr(config, name) for name in names}, **options)

    def forward_features(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.patch_embed(clip)
        table = _table_like(self.pos_embed, x).expand(x.shape[0], -1, -1)
        x = x + table.to(x.device).clone().detach()
        for number, block in enumerate(self.blocks):
            kept = None if keep is None else keep[number]
            x = checkpoint(block, x, kept, use_reentrant=False) if self.checkpointing else block(x, kept)
        return self.fc_norm(x.mean(1))

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.head(self.fc_dropout(self.forward_features(clip, keep)))
