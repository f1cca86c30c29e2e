"""Masked video transformers (VideoMAE V2, InternVideo2) that only do work for the tokens they use."""

from .interop import fuse, pretrain_loss, unfuse
from .masks import MaskPlan, guided_masks, make_masks, masks_from_bool
from .models import (
    CONFIGS,
    AlignmentHeads,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2ForClassification,
    InternVideo2Tower,
    SplitBert,
    TextTower,
    VideoCaptioner,
    VideoMAEConfig,
    VideoMAEForClassification,
    VideoMAEForPretraining,
    VideoTextFusionModel,
    VideoTextModel,
    VideoTransformer,
    get_config,
    get_internvideo2_config,
    language_model_loss,
)

__all__ = [
    "CONFIGS",
    "AlignmentHeads",
    "InternVideo2Config",
    "InternVideo2ForAlignment",
    "InternVideo2ForClassification",
    "InternVideo2Tower",
    "MaskPlan",
    "SplitBert",
    "TextTower",
    "VideoCaptioner",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "VideoTextFusionModel",
    "VideoTextModel",
    "VideoTransformer",
    "fuse",
    "get_config",
    "get_internvideo2_config",
    "guided_masks",
    "language_model_loss",
    "make_masks",
    "masks_from_bool",
    "pretrain_loss",
    "unfuse",
]
__version__ = "0.1.0"
