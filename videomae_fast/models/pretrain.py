"""VideoMAE V2 pre-training: encoder on visible tokens, decoder on those and the decoded ones, loss on hidden ones.

The published mathematics (models/modeling_pretrain.py, engine_for_pretraining.py) without the work that its masks
throw away: hidden tokens are never embedded, the last decoder block and the head run on the rows of the loss only,
and targets exist in registers only.
"""

import torch
from torch import Tensor, nn

from videomae_kernels import CroppedClips, assemble_decoder_tokens, masked_patch_loss

from ..masks import MaskPlan
from .config import VideoMAEConfig
from .encoder import Encoder, init_transformer, make_blocks, recompute, sinusoid_table

Clip = Tensor | CroppedClips


class Decoder(nn.Module):
    """Transformer over latent and mask tokens that predicts pixels for its last rows."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.blocks = make_blocks(config, config.decoder_dim, config.decoder_depth, config.decoder_heads)
        self.norm = nn.LayerNorm(config.decoder_dim, eps=config.norm_eps)
        self.head = nn.Linear(config.decoder_dim, config.patch_dim)
        self.apply(init_transformer)

    def forward(self, x: Tensor, last_rows: int) -> Tensor:
        """(B, n, d) → predictions (B, last_rows, P); nothing that only other rows would need is computed."""
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return recompute(lambda x: self.head(self.norm(x)), last(x, last_rows))


class VideoMAEForPretraining(nn.Module):
    """Masked video autoencoder. Its state_dict has the keys and shapes of a published pre-training checkpoint."""

    position: Tensor

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.encoder_to_decoder = nn.Linear(config.encoder_dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        self.decoder = Decoder(config)
        self.register_buffer("position", sinusoid_table(config.num_tokens, config.decoder_dim), persistent=False)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, clip: Clip, plan: MaskPlan, layout: str = "BCTHW") -> Tensor:
        """The pre-training loss, scalar float32 (float64 for a float64 clip).

        clip: five dimensions in the order of `layout`, of the size the model was built for; uint8, or floating and
        normalised with the configuration's pixel_mean and pixel_std. Or `CroppedClips`, which have no layout.
        """
        return self.loss(self.predict(clip, plan, layout), clip, plan, layout)

    def predict(self, clip: Clip, plan: MaskPlan, layout: str = "BCTHW") -> Tensor:
        """Predictions (B, R, P) for the tokens `plan.predicted` (B, R), P ordered as `patch_targets` orders it."""
        self._check(clip, plan, layout)
        decode, rows = plan.decoded, plan.predicted.shape[1]
        if self.config.decoder_context == "disjoint":
            decode = self._without_overlap(plan)
        latent = self.encoder_to_decoder(self.encoder(clip, plan.visible, layout))
        mask_token = self.mask_token.flatten()
        tokens = assemble_decoder_tokens(latent, mask_token, self.position, plan.visible, decode)
        return self.decoder(tokens, rows)

    def loss(self, predictions: Tensor, clip: Clip, plan: MaskPlan, layout: str = "BCTHW") -> Tensor:
        """Scalar: mean squared error of `predictions` (B, R, P) where the encoder saw nothing."""
        stats = None if clip.dtype == torch.uint8 else (self.config.pixel_mean, self.config.pixel_std)
        return masked_patch_loss(
            predictions,
            clip,
            plan.predicted,
            self.config.patch,
            layout=layout,
            denormalize=stats,
            weight=plan.loss_weight,
        )

    def _check(self, clip: Clip, plan: MaskPlan, layout: str) -> None:
        if plan.grid != self.config.grid:
            raise ValueError(f"plan is for grid {plan.grid}, the model was built for {self.config.grid}")
        if sorted(layout) != sorted("BCTHW"):
            raise ValueError(f"layout must be a permutation of 'BCTHW' such as 'BTHWC', got '{layout}'")
        if isinstance(clip, CroppedClips):
            layout = "BCTHW"
        elif clip.ndim != 5:
            raise ValueError(f"clip must have 5 dimensions ({layout}), got shape {tuple(clip.shape)}")
        size = dict(zip(layout, clip.shape, strict=True))
        expected = {"T": self.config.num_frames, "H": self.config.image_size[0], "W": self.config.image_size[1]}
        for name, value in expected.items():
            if size[name] != value:
                raise ValueError(
                    f"clip must have {name}={value} as the model was built for, got {tuple(clip.shape)} as {layout}"
                )
        if size["B"] != plan.visible.shape[0]:
            raise ValueError(f"clip has a batch of {size['B']}, plan of {plan.visible.shape[0]}")

    @staticmethod
    def _without_overlap(plan: MaskPlan) -> Tensor:
        if not isinstance(plan.num_overlap, int):
            raise ValueError(
                "decoder_context='disjoint' needs the same number of overlap rows in every sample: tube masking "
                "with a number of token frames that is a multiple of 4, or decoder mask 'none'"
            )
        return plan.predicted
