"""VideoMAE V2 and InternVideo2 as thin modules over the ops of videomae_kernels."""

from .alignment_heads import AlignmentHeads, AlignmentLosses
from .classify import VideoMAEForClassification
from .config import (
    CONFIGS,
    INTERNVIDEO2_CONFIGS,
    InternVideo2Config,
    VideoMAEConfig,
    get_config,
    get_internvideo2_config,
)
from .internvideo2 import InternVideo2, InternVideo2ForAlignment
from .internvideo2_classify import InternVideo2ForClassification
from .memory_budget import choose_recompute
from .pretrain import VideoMAEForPretraining
from .stochastic_depth import stochastic_depth
from .teachers import TeacherRows

__all__ = [
    "CONFIGS",
    "INTERNVIDEO2_CONFIGS",
    "AlignmentHeads",
    "AlignmentLosses",
    "InternVideo2",
    "InternVideo2Config",
    "InternVideo2ForAlignment",
    "InternVideo2ForClassification",
    "TeacherRows",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "choose_recompute",
    "get_config",
    "get_internvideo2_config",
    "stochastic_depth",
]
