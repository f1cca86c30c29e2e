"""A stand-in for the published code (models/modeling_pretrain.py of VideoMAE V2): its classes, attributes and calls.

Written from the specification, to be fused. It shares its blocks with the plain implementation in model.py; what `fuse`
replaces is as it was published: all tokens embedded, tables on the CPU, boolean selection.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.baselines.published.model import Block, sinusoid_table
from videomae_fast.models import VideoMAEForPretraining


class PatchEmbed(nn.Module):
    def __init__(self, img_size: int, patch_size: int, embed_dim: int, num_frames: int, tubelet_size: int) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.num_patches = (img_size // patch_size) ** 2 * (num_frames // tubelet_size)
        kernel = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-2:] == self.img_size
        return self.proj(x).flatten(2).transpose(1, 2)


class _Blocks(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float, norm_layer: Any, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, "eager") for _ in range(depth))
        self.norm = norm_layer(dim)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.with_cp else block(x)
        return x


class PretrainVisionTransformerEncoder(_Blocks):
    def __init__(self, patch_embed: PatchEmbed, dim: int, *rest: Any) -> None:
        super().__init__(dim, *rest)
        self.patch_embed = patch_embed
        self.pos_embed = sinusoid_table(patch_embed.num_patches, dim).clone()
        self.head = nn.Identity()

    def forward_features(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = x + self.pos_embed.type_as(x).to(x.device).clone().detach()
        visible = x[~mask].reshape(x.shape[0], -1, x.shape[-1])
        return self.norm(self.run(visible))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.forward_features(x, mask))


class PretrainVisionTransformerDecoder(_Blocks):
    def __init__(self, num_classes: int, dim: int, *rest: Any) -> None:
        super().__init__(dim, *rest)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor, return_token_num: int) -> Tensor:
        return self.head(self.norm(self.run(x)[:, -return_token_num:]))


class PretrainVisionTransformer(nn.Module):
    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        encoder_embed_dim: int = 768,
        encoder_depth: int = 12,
        encoder_num_heads: int = 12,
        decoder_num_classes: int = 1536,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        norm_layer: Any = nn.LayerNorm,
        tubelet_size: int = 2,
        all_frames: int = 16,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        assert qkv_bias, "the stand-in has no blocks without it"
        shared = (mlp_ratio, norm_layer, with_cp)
        patch_embed = PatchEmbed(img_size, patch_size, encoder_embed_dim, all_frames, tubelet_size)
        encoder = (encoder_embed_dim, encoder_depth, encoder_num_heads, *shared)
        decoder = (decoder_embed_dim, decoder_depth, decoder_num_heads, *shared)
        self.encoder = PretrainVisionTransformerEncoder(patch_embed, *encoder)
        self.decoder = PretrainVisionTransformerDecoder(decoder_num_classes, *decoder)
        self.encoder_to_decoder = nn.Linear(encoder_embed_dim, decoder_embed_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.pos_embed = sinusoid_table(patch_embed.num_patches, decoder_embed_dim).clone()
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, x: Tensor, mask: Tensor, decode_mask: Tensor | None = None) -> Tensor:
        visible = self.encoder_to_decoder(self.encoder(x, mask))
        batch, _, dim = visible.shape
        table = self.pos_embed.expand(batch, -1, -1).type_as(x).to(x.device).clone().detach()
        decoded = mask if decode_mask is None else ~decode_mask
        of_visible, of_decoded = table[~mask].reshape(batch, -1, dim), table[decoded].reshape(batch, -1, dim)
        return self.decoder(torch.cat([visible + of_visible, self.mask_token + of_decoded], dim=1), of_decoded.shape[1])


def build_published(cls: Any, ours: VideoMAEForPretraining) -> nn.Module:
    """`cls`, which is PretrainVisionTransformer or takes its arguments, with our sizes and weights.

    Activation checkpointing is set as in the published scripts.
    """
    config = ours.config
    height, width = config.image_size
    if height != width:
        raise ValueError(f"the published code needs square images, got {config.image_size}")
    model = cls(
        img_size=height,
        patch_size=config.patch_size,
        encoder_embed_dim=config.encoder_dim,
        encoder_depth=config.encoder_depth,
        encoder_num_heads=config.encoder_heads,
        decoder_num_classes=config.patch_dim,
        decoder_embed_dim=config.decoder_dim,
        decoder_depth=config.decoder_depth,
        decoder_num_heads=config.decoder_heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
        tubelet_size=config.tubelet_size,
        all_frames=config.num_frames,
        with_cp=config.encoder_depth >= 32,
    )
    model.load_state_dict(ours.state_dict())
    return model
