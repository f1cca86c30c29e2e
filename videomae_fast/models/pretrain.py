"""VideoMAE V2 pre-training: encoder on visible tokens, decoder on visible and decoded tokens, loss on hidden tokens.

The mathematics is the published one (models/modeling_pretrain.py, engine_for_pretraining.py), without the work that
the masks discard: the model never embeds hidden tokens, it runs the last decoder block and the head on the predicted
rows only, and targets exist in registers only.
"""

import torch
from torch import Tensor, nn

from videomae_kernels import assemble_decoder_tokens, masked_patch_loss

from ..masks import MaskPlan
from .config import VideoMAEConfig
from .encoder import DIMENSIONS, Clip, Encoder, init_transformer, make_blocks, open_clip
from .linear import Linear, linear
from .norms import LayerNorm, add_norm
from .positions import FixedPositions


class Decoder(nn.Module):
    """Transformer over latent and mask tokens that predicts pixels for its last rows."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        sizes = config.decoder_dim, config.decoder_depth, config.decoder_heads
        self.blocks = make_blocks(config, *sizes, first_layer=config.encoder_depth)
        self.norm = LayerNorm(config.decoder_dim, config.norm_eps, config.elementwise)
        self.head = Linear(config.decoder_dim, config.patch_dim)
        self.recompute = config.recompute
        self.apply(init_transformer)

    def forward(self, x: Tensor, last_rows: int) -> Tensor:
        """(B, n, d) → predictions (B, last_rows, P) for the last rows; work for the other rows alone is left out."""
        *blocks, last = self.blocks
        branch = None
        for block in blocks:
            x, branch = block(x, branch)
        x, branch = last(x, branch, last_rows)
        _, y, source = add_norm(x, branch, self.norm)
        return linear(y, self.head, source=None if self.recompute == "never" else source)


class VideoMAEForPretraining(FixedPositions):
    """Masked video autoencoder. Its state_dict has the keys and shapes of a published pre-training checkpoint."""

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__(config.num_tokens, config.decoder_dim)
        self.config = config
        self.encoder = Encoder(config)
        self.encoder_to_decoder = Linear(config.encoder_dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        self.decoder = Decoder(config)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, clip: Clip, plan: MaskPlan, layout: str = DIMENSIONS) -> Tensor:
        """The pre-training loss: `loss(predict(clip, plan), clip, plan)`.

        Args:
            clip: five dimensions in the order of `layout`, any strides, of the size the model was built for; uint8,
                or floating and normalised with the configuration's pixel_mean and pixel_std. Or CroppedClips, which
                have no layout.
            plan: masks of these clips, on the grid of the model and the device of the clips.
            layout: a permutation of "BCTHW".

        Returns:
            Scalar float32, or float64 for a float64 clip.

        Raises:
            ValueError: the clip or the plan has another size, the layout is wrong, the plan leaves no row for the
                loss, or FSDP2 has cast a floating clip; the message names what came.
            TypeError: the clip is neither uint8 nor floating.

        References:
            VideoMAE V2, arXiv 2303.16727, section 3; its engine_for_pretraining.py.
        """
        _reject_cast_clip(self, clip)
        clip = self._open(clip, plan, layout)
        return self._loss(self._predict(clip, plan), clip, plan)

    def predict(self, clip: Clip, plan: MaskPlan, layout: str = DIMENSIONS) -> Tensor:
        """Pixel predictions for the tokens `plan.predicted`.

        Args:
            clip: as `forward` takes it.
            plan: as `forward` takes it.
            layout: a permutation of "BCTHW".

        Returns:
            (B, R, P) for `plan.predicted` (B, R); P is ordered as `videomae_kernels.patch_targets` orders it.

        Raises:
            ValueError: the clip or the plan has another size, or the layout is wrong; the message names what came.
            TypeError: the clip is neither uint8 nor floating.
        """
        return self._predict(self._open(clip, plan, layout), plan)

    def loss(self, predictions: Tensor, clip: Clip, plan: MaskPlan, layout: str = DIMENSIONS) -> Tensor:
        """Mean squared error of the loss rows; a target is the pixels of a token, normalised over the token.

            loss = share · Σ w · mean_p (prediction − target)² / Σ w

        Args:
            predictions: (B, R, P), as `predict` returns them.
            clip: as `forward` takes it.
            plan: as `forward` takes it; it gives the weights w (`loss_weight`) and the share.
            layout: a permutation of "BCTHW".

        Returns:
            Scalar float32, or float64 for a float64 clip.

        Raises:
            ValueError: the clip or the plan has another size, the layout is wrong, or the plan leaves no row for the
                loss; the message names what came.
            TypeError: the clip is neither uint8 nor floating.
        """
        return self._loss(predictions, self._open(clip, plan, layout), plan)

    def _predict(self, clip: Clip, plan: MaskPlan) -> Tensor:
        decoded = self._without_overlap(plan) if self.config.decoder_context == "disjoint" else plan.decoded
        latent = linear(self.encoder(clip, plan.visible), self.encoder_to_decoder)
        mask_token = self.mask_token.flatten()
        tokens = assemble_decoder_tokens(latent, mask_token, self.position, plan.visible, decoded)
        return self.decoder(tokens, last_rows=plan.predicted.shape[1])

    def _loss(self, predictions: Tensor, clip: Clip, plan: MaskPlan) -> Tensor:
        stats = None if clip.dtype == torch.uint8 else (self.config.pixel_mean, self.config.pixel_std)
        loss = masked_patch_loss(
            predictions, clip, plan.predicted, self.config.patch, denormalize=stats, weight=plan.loss_weight
        )
        if plan.share is None:
            return loss
        return loss * (plan.share.to(loss.dtype) if isinstance(plan.share, Tensor) else plan.share)

    def _open(self, clip: Clip, plan: MaskPlan, layout: str) -> Clip:
        """Check the clip against the model and the plan, and return it as a view (B, C, T, H, W)."""
        if plan.grid != self.config.grid:
            raise ValueError(f"plan is for grid {plan.grid}, the model was built for {self.config.grid}")
        clip = open_clip(clip, self.config, layout)
        if clip.shape[0] != plan.visible.shape[0]:
            raise ValueError(f"clip has a batch of {clip.shape[0]}, plan of {plan.visible.shape[0]}")
        return clip

    @staticmethod
    def _without_overlap(plan: MaskPlan) -> Tensor:
        if not isinstance(plan.num_overlap, int):
            raise ValueError(
                "decoder_context='disjoint' needs the same number of overlap rows in every sample: tube masking "
                "with a number of token frames that is a multiple of 4, or decoder_mask 'none'"
            )
        return plan.predicted


def _reject_cast_clip(module: nn.Module, clip: Clip) -> None:
    """An error if FSDP2 has cast the clip: targets would be made of rounded pixels, and nobody would be told."""
    state = getattr(module, "_get_fsdp_state", None)  # of FSDPModule, which has no public way to its policy
    policy = getattr(state(), "_mp_policy", None) if state is not None else None
    if policy is None or not policy.cast_forward_inputs or policy.param_dtype in (None, torch.float32):
        return
    if clip.dtype == policy.param_dtype:
        raise ValueError(
            f"clip is {clip.dtype} in a model whose MixedPrecisionPolicy casts floating inputs: its targets would be "
            "of rounded pixels; call fully_shard on the model (not its blocks) with cast_forward_inputs=False, or give "
            "uint8 clips"
        )
