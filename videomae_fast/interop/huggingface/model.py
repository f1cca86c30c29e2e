"""The seams of Hugging Face's VideoMAE (transformers, models/videomae/modeling_videomae.py).

`VideoMAEEmbeddings` embeds every token, adds a table copied from the host, and selects by a boolean mask;
`VideoMAEForPreTraining.forward` copies a table expanded over the batch and makes targets of the whole clip. Encoder
and decoder layers stay as they are: their insides change between versions.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from videomae_kernels import assemble_decoder_tokens, embed_tokens, masked_patch_loss

from ...masks import Mask, as_plan, encoder_mask, visible_tokens
from ...models.constants import IMAGENET_MEAN, IMAGENET_STD
from ..seam import Seam, example_clip, is_attached, position_table

TESTED = "transformers 4.45 to 5.23"
LAYOUT = "BTCHW"


def embeddings_forward(self: Any, pixel_values: Tensor, bool_masked_pos: Mask | None = None) -> Tensor:
    """VideoMAEEmbeddings.forward: embed the visible tokens, or all tokens without a mask.

    Args:
        pixel_values: (B, T, C, H, W) floating.
        bool_masked_pos: (B, N) bool, True for hidden tokens; or a MaskPlan, or the visible tokens' index (B, V).

    Returns:
        (B, V, D), or (B, N, D) without a mask.
    """
    if bool_masked_pos is None:
        return EMBEDDINGS.original_class(self).forward(self, pixel_values, None)
    table = self.position_embeddings
    visible = visible_tokens(bool_masked_pos, table.shape[1], pixel_values.device)
    return self.patch_embeddings(pixel_values, visible, table)


def patch_embeddings_forward(
    self: Any, pixel_values: Tensor, visible: Tensor | None = None, position: Tensor | None = None
) -> Tensor:
    """VideoMAEPatchEmbeddings.forward, or the tokens at `visible` with their positions added.

    This is a seam of its own so that hooks on this module, the model's input embeddings, still run.

    Args:
        pixel_values: (B, T, C, H, W) floating.
        visible: (B, V) tokens to embed; None embeds all, without positions.
        position: (1, N, D) table.

    Returns:
        (B, V, D), or (B, N, D) without `visible`.

    Raises:
        TypeError: the patch projection is no longer a Conv3d.
        ValueError: the clips have another height or width.
    """
    if visible is None or position is None:
        return PATCH_EMBEDDINGS.original_class(self).forward(self, pixel_values)
    projection = self.projection
    if not isinstance(projection, nn.Conv3d):
        raise TypeError(
            f"the patch projection has become a {type(projection).__name__}, whose weight is not all it computes: "
            "unfuse the model, or fuse it with ops=('decode',)"
        )
    if pixel_values.shape[-2:] != tuple(self.image_size):
        raise ValueError(
            f"pixel_values must be (B, T, C, {', '.join(map(str, self.image_size))}), got {tuple(pixel_values.shape)}"
        )
    assert projection.bias is not None
    table = position_table(position, projection.weight)
    return embed_tokens(pixel_values, visible, projection.weight, projection.bias, table, layout=LAYOUT)


def pretraining_forward(
    self: Any,
    pixel_values: Tensor,
    bool_masked_pos: Mask | None = None,
    *,
    decode_mask: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """VideoMAEForPreTraining.forward, and the dual masking of VideoMAE V2.

    Args:
        pixel_values: (B, T, C, H, W) floating, normalised with ImageNet's mean and standard deviation.
        bool_masked_pos: (B, N) bool, True for tokens hidden from the encoder; or a MaskPlan.
        decode_mask: (B, N) bool, True for tokens that are not decoded; None decodes exactly the hidden tokens.
        **kwargs: as the original takes them.

    Returns:
        VideoMAEForPreTrainingOutput. Its logits (B, R, P) predict `plan.predicted`: the tokens that are hidden and
        decoded, ascending. If samples differ in how many decoded tokens the encoder sees, these tokens are predicted
        as well and come first.

    Raises:
        ValueError: there is no mask, or a mask has another shape.
    """
    if bool_masked_pos is None:
        raise ValueError("bool_masked_pos is missing: a boolean mask (B, N), True = hidden, or a MaskPlan")
    return_dict = kwargs.pop("return_dict", None)
    plan = as_plan(bool_masked_pos, decode_mask, _grid(self), pixel_values.device)
    mask = encoder_mask(plan.visible, plan.num_tokens, fused=is_attached(self.videomae.embeddings))
    outputs = self.videomae(pixel_values, bool_masked_pos=mask, return_dict=True, **kwargs)
    latent = self.encoder_to_decoder(outputs.last_hidden_state)
    table = position_table(self.position_embeddings, pixel_values)
    tokens = assemble_decoder_tokens(latent, self.mask_token.flatten(), table, plan.visible, plan.decoded)
    logits = self.decoder(tokens, plan.predicted.shape[1]).logits
    output = _module_of(self).VideoMAEForPreTrainingOutput(
        loss=_loss(self, logits, pixel_values, plan.predicted, plan.loss_weight),
        logits=logits,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )
    wants_dict = self.config.return_dict if return_dict is None else return_dict
    return output if wants_dict else output.to_tuple()


def _loss(self: Any, logits: Tensor, pixel_values: Tensor, predicted: Tensor, weight: Tensor | None) -> Tensor:
    config = self.config
    if config.num_channels != 3 and not config.norm_pix_loss:
        raise ValueError(
            f"num_channels is {config.num_channels}, but only RGB can be un-normalised: set norm_pix_loss to True"
        )
    loss = masked_patch_loss(
        logits,
        pixel_values,
        predicted,
        (config.tubelet_size, config.patch_size, config.patch_size),
        layout=LAYOUT,
        denormalize=(IMAGENET_MEAN, IMAGENET_STD) if config.num_channels == 3 else None,
        normalize_target=config.norm_pix_loss,
        weight=weight,
    )
    if torch.is_autocast_enabled(logits.device.type):
        return loss  # MSELoss runs in float32 there
    return loss.to(torch.promote_types(logits.dtype, pixel_values.dtype))


def _grid(model: Any) -> tuple[int, int, int]:
    patches = model.videomae.embeddings.patch_embeddings
    height, width = (size // patch for size, patch in zip(patches.image_size, patches.patch_size, strict=True))
    return patches.num_patches // (height * width), height, width


def _module_of(model: Any) -> Any:
    return sys.modules[PRETRAINING.original_class(model).__module__]


def _example(patches: Any) -> tuple[Tensor, Tensor]:
    clip, hidden = example_clip(patches.projection.weight, patches.num_patches, patches.image_size)
    return clip.transpose(1, 2), hidden


PATCH_EMBEDDINGS = Seam(
    op="embed_tokens",
    class_name="VideoMAEPatchEmbeddings",
    package="transformers",
    needs={
        "projection": nn.Conv3d,
        "projection.bias": Tensor,
        "image_size": (tuple, list),
        "patch_size": (tuple, list),
        "tubelet_size": int,
        "num_channels": int,
        "num_patches": int,
    },
    forward=patch_embeddings_forward,
    example=lambda module: _example(module)[:1],
    tested=TESTED,
)
EMBEDDINGS = Seam(
    op="embed_tokens",
    class_name="VideoMAEEmbeddings",
    package="transformers",
    needs={"patch_embeddings": nn.Module, "position_embeddings": Tensor},
    forward=embeddings_forward,
    example=lambda module: _example(module.patch_embeddings),
    tables=("position_embeddings",),
    tested=TESTED,
)
PRETRAINING = Seam(
    op="decode",
    class_name="VideoMAEForPreTraining",
    package="transformers",
    needs={
        "videomae.embeddings.patch_embeddings.num_patches": int,
        "encoder_to_decoder": nn.Module,
        "mask_token": Tensor,
        "position_embeddings": Tensor,
        "decoder": nn.Module,
        "config.norm_pix_loss": bool,
        "config.num_channels": int,
        "config.tubelet_size": int,
        "config.patch_size": int,
    },
    forward=pretraining_forward,
    example=lambda module: _example(module.videomae.embeddings.patch_embeddings),
    tables=("position_embeddings",),
    tested=TESTED,
)
SEAMS = (PATCH_EMBEDDINGS, EMBEDDINGS, PRETRAINING)
