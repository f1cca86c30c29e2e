"""The seams of the published VideoMAE V1 and V2 code (models/modeling_pretrain.py), and the loss for its training loop.

`PretrainVisionTransformerEncoder.forward_features` embeds every token and selects by a boolean mask;
`PretrainVisionTransformer.forward` copies a position table expanded over the batch. The loss is not part of that
model but of `train_one_epoch` (engine_for_pretraining.py): `pretrain_loss` replaces its lines there.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videomae_kernels import assemble_decoder_tokens, embed_tokens, masked_patch_loss

from ...masks import Mask, MaskPlan, encoder_mask, no_decoder_mask, visible_and_decoded, visible_tokens
from ...models.constants import IMAGENET_MEAN, IMAGENET_STD
from ..seam import Seam, example_clip, is_attached, position_table

TESTED = "OpenGVLab/VideoMAEv2 at 29eab1e and MCG-NJU/VideoMAE"


def encoder_features(self: Any, x: Tensor, mask: Mask) -> Tensor:
    """PretrainVisionTransformerEncoder.forward_features: encode the visible tokens.

    Args:
        x: (B, C, T, H, W) floating clips.
        mask: (B, N) bool, True for hidden tokens; or a MaskPlan, or the visible tokens' index (B, V).

    Returns:
        (B, V, D) tokens.

    Raises:
        ValueError: the clips have another height or width.
    """
    proj, size = self.patch_embed.proj, tuple(self.patch_embed.img_size)
    if x.shape[-2:] != size:
        raise ValueError(f"the clip must be (B, C, T, {size[0]}, {size[1]}), got {tuple(x.shape)}")
    visible = visible_tokens(mask, self.pos_embed.shape[1], x.device)
    x = embed_tokens(x, visible, proj.weight, proj.bias, position_table(self.pos_embed, proj.weight))
    checkpointing = getattr(self, "with_cp", False) or getattr(self, "use_checkpoint", False)  # V2, V1
    for block in self.blocks:
        x = checkpoint(block, x, use_reentrant=False) if checkpointing else block(x)
    return self.norm(x)


def model_forward(self: Any, x: Tensor, mask: Mask, decode_mask: Tensor | None = None) -> Tensor:
    """PretrainVisionTransformer.forward: predict the decoded tokens, in ascending order.

    Args:
        x: (B, C, T, H, W) floating clips.
        mask: (B, N) bool, True for tokens hidden from the encoder; or a MaskPlan.
        decode_mask: (B, N) bool, True for tokens that are not decoded; None decodes exactly the hidden tokens.

    Returns:
        (B, M, P) predictions, of `plan.predicted` if `mask` is a MaskPlan.
    """
    num_tokens = self.pos_embed.shape[1]
    if isinstance(mask, MaskPlan):
        no_decoder_mask(decode_mask)
        plan = mask.to(x.device)
        visible, decode, rows = plan.visible, plan.decoded, plan.predicted.shape[1]
    else:
        visible, decode = visible_and_decoded(mask, decode_mask, num_tokens, x.device)
        rows = decode.shape[1]
    latent = self.encoder_to_decoder(self.encoder(x, encoder_mask(visible, num_tokens, is_attached(self.encoder))))
    table = position_table(self.pos_embed, x)
    tokens = assemble_decoder_tokens(latent, self.mask_token.flatten(), table, visible, decode)
    return self.decoder(tokens, rows)


def pretrain_loss(
    images: Tensor,
    outputs: Tensor,
    bool_masked_pos: Mask,
    decode_masked_pos: Tensor | None = None,
    *,
    patch: Sequence[int] = (2, 16, 16),
    normalize: bool = True,
) -> Tensor:
    """The loss of the published training loop, without its targets of the whole clip.

    With predictions y (B, M, P) and the pixels x of the decoded tokens, un-normalised and, by default, normalised per
    token and channel,

        loss = Σ w (y − x)² / (P Σ w),    w = 1 for tokens hidden from the encoder, 0 for others.

    Args:
        images: (B, 3, T, H, W) floating, normalised with ImageNet's mean and standard deviation: the model's input.
        outputs: (B, M, P) predictions of the model, P = 3·T_p·H_p·W_p; M as the masks say.
        bool_masked_pos: (B, N) bool, True for tokens hidden from the encoder; or the MaskPlan that the model got.
            Boolean masks on a GPU cost a host sync for their counts.
        decode_masked_pos: (B, N) bool, True for tokens that are not decoded; None if exactly the hidden tokens are.
        patch: pixels of a token, (frames, height, width).
        normalize: whether targets are normalised per token and channel (the published `--normlize_target`).

    Returns:
        Scalar float32; float64 for float64 inputs.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: shapes do not fit, samples have different counts, or both a MaskPlan and `decode_masked_pos` are
            given.

    References:
        engine_for_pretraining.py (`train_one_epoch`) of OpenGVLab/VideoMAEv2@29eab1e.
    """
    if isinstance(bool_masked_pos, MaskPlan):
        no_decoder_mask(decode_masked_pos)
        plan = bool_masked_pos.to(images.device)
        decode, weight = plan.predicted, plan.loss_weight
    else:
        num_tokens = bool_masked_pos.shape[-1]
        _, decode = visible_and_decoded(bool_masked_pos, decode_masked_pos, num_tokens, images.device)
        weight = None
        if decode_masked_pos is not None:
            weight = bool_masked_pos.to(images.device).gather(1, decode).float()
    return masked_patch_loss(
        outputs,
        images,
        decode,
        patch,
        denormalize=(IMAGENET_MEAN, IMAGENET_STD),
        normalize_target=normalize,
        weight=weight,
    )


def _example(encoder: Any) -> tuple[Tensor, Tensor]:
    return example_clip(encoder.patch_embed.proj.weight, encoder.pos_embed.shape[1], encoder.patch_embed.img_size)


ENCODER = Seam(
    op="embed_tokens",
    class_name="PretrainVisionTransformerEncoder",
    package="",
    needs={
        "patch_embed.proj": nn.Conv3d,
        "patch_embed.proj.bias": Tensor,
        "patch_embed.img_size": (tuple, list),
        "pos_embed": Tensor,
        "blocks": nn.ModuleList,
        "norm": nn.Module,
    },
    forward=encoder_features,
    example=_example,
    method="forward_features",
    tables=("pos_embed",),
    tested=TESTED,
)
MODEL = Seam(
    op="decode",
    class_name="PretrainVisionTransformer",
    package="",
    needs={
        "encoder.patch_embed.proj": nn.Conv3d,
        "encoder_to_decoder": nn.Module,
        "mask_token": Tensor,
        "pos_embed": Tensor,
        "decoder": nn.Module,
    },
    forward=model_forward,
    example=lambda module: _example(module.encoder),
    tables=("pos_embed",),
    tested=TESTED,
)
SEAMS = (ENCODER, MODEL)
