"""VideoMAE V2 pre-training that only does work for the tokens it uses."""

from .interop import fuse, pretrain_loss, unfuse
from .masks import MaskPlan, guided_masks, make_masks, masks_from_bool
from .models import CONFIGS, VideoMAEConfig, VideoMAEForClassification, VideoMAEForPretraining, get_config

__all__ = [
    "CONFIGS",
    "MaskPlan",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "fuse",
    "get_config",
    "guided_masks",
    "make_masks",
    "masks_from_bool",
    "pretrain_loss",
    "unfuse",
]
__version__ = "0.1.0"
