"""Ops for masked video transformers: only what the masks keep is read, computed and stored.

Every function is documented in `videomae_kernels.ops.<file>`: mathematics, shapes, dtypes, errors and source.
"""

from ._checks import debug_checks
from .masks.index import mask_to_index, random_mask_index, tube_mask_index
from .masks.running_cell import running_cell_select
from .pixels.crops import CroppedClips, cat_clips, crop_clips
from .pixels.gather import tube_mask_gather
from .pixels.loss import masked_patch_loss
from .pixels.targets import patch_targets
from .tokens.decoder_input import assemble_decoder_tokens
from .tokens.embed import embed_tokens
from .tokens.rows import gather_tokens, masked_token_scatter

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
