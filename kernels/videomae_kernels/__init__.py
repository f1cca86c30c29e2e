"""Ops for masked video transformers: only what the masks keep is read, computed and stored.

Every function is documented in `videomae_kernels.ops.<file>`: mathematics, shapes, dtypes, errors and source.
"""

from ._checks import debug_checks
from .ops.assemble_decoder_tokens import assemble_decoder_tokens
from .ops.crop_clips import crop_clips
from .ops.cropped_clips import CroppedClips, cat_clips
from .ops.embed_tokens import embed_tokens
from .ops.gather_tokens import gather_tokens
from .ops.mask_index import mask_to_index, random_mask_index, tube_mask_index
from .ops.masked_patch_loss import masked_patch_loss
from .ops.masked_token_scatter import masked_token_scatter
from .ops.patch_targets import patch_targets
from .ops.running_cell_select import running_cell_select
from .ops.tube_mask_gather import tube_mask_gather

__all__ = [
    "CroppedClips",
    "assemble_decoder_tokens",
    "cat_clips",
    "crop_clips",
    "debug_checks",
    "embed_tokens",
    "gather_tokens",
    "mask_to_index",
    "masked_patch_loss",
    "masked_token_scatter",
    "patch_targets",
    "random_mask_index",
    "running_cell_select",
    "tube_mask_gather",
    "tube_mask_index",
]
