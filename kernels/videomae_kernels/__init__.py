"""Ops for masked video transformers: only what the masks keep is read, computed and stored.

    import torch
    import videomae_kernels as vk

    clip = torch.randint(0, 256, (2, 16, 224, 224, 3), dtype=torch.uint8)  # B, T, H, W, C
    visible = vk.tube_mask_index(torch.arange(2), grid=(8, 14, 14), ratio=0.9, seed=0)  # (2, 160) of 1,568 tokens
    pixels = vk.tube_mask_gather(clip, visible, (2, 16, 16), layout="BTHWC")  # (2, 160, 1536), nothing else is read

`help(videomae_kernels.<op>)` has an op's equation, arguments, errors and sources.
"""

from ._custom_op import runs_triton
from ._values import check_indices
from .masks.changed import changed_token_index
from .masks.index import mask_to_index, random_mask_index, tube_mask_index
from .masks.philox import philox_keys
from .masks.running_cell import running_cell_select
from .masks.weighted import weighted_mask_index
from .pixels.crops import RESIZES, CroppedClips, cat_clips, crop_clips
from .pixels.gather import tube_mask_gather
from .pixels.loss import masked_patch_loss
from .pixels.targets import patch_targets
from .pixels.warp import crop_matrix, warp_clips
from .tokens.align import alignment_loss
from .tokens.contrast import contrastive_loss
from .tokens.decoder_input import assemble_decoder_tokens
from .tokens.drawn_norm import add_drawn_norm
from .tokens.embed import embed_tokens
from .tokens.gelu import bias_gelu
from .tokens.norm import add_layer_norm, layer_norm
from .tokens.rms_norm import add_rms_norm, rms_norm
from .tokens.rows import gather_tokens, masked_token_scatter

__all__ = [
    "RESIZES",
    "CroppedClips",
    "add_drawn_norm",
    "add_layer_norm",
    "add_rms_norm",
    "alignment_loss",
    "assemble_decoder_tokens",
    "bias_gelu",
    "cat_clips",
    "changed_token_index",
    "check_indices",
    "contrastive_loss",
    "crop_clips",
    "crop_matrix",
    "embed_tokens",
    "gather_tokens",
    "layer_norm",
    "mask_to_index",
    "masked_patch_loss",
    "masked_token_scatter",
    "patch_targets",
    "philox_keys",
    "random_mask_index",
    "rms_norm",
    "running_cell_select",
    "runs_triton",
    "tube_mask_gather",
    "tube_mask_index",
    "warp_clips",
    "weighted_mask_index",
]
