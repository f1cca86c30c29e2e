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
from .frozen_teacher import find_nonfinite, last_layers, observe_and_draw
from .guides import InternVideo2Guide
from .internvideo2 import InternVideo2, InternVideo2ForAlignment
from .internvideo2_classify import InternVideo2ForClassification
from .memory_budget import choose_recompute
from .pretrain import VideoMAEForPretraining
from .stochastic_depth import stochastic_depth
from .teachers import Observation, TeacherRows
from .video_teacher import VideoMAETeacher

__all__ = [
    "CONFIGS",
    "INTERNVIDEO2_CONFIGS",
    "AlignmentHeads",
    "AlignmentLosses",
    "InternVideo2",
    "InternVideo2Config",
    "InternVideo2ForAlignment",
    "InternVideo2ForClassification",
    "InternVideo2Guide",
    "Observation",
    "TeacherRows",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "VideoMAETeacher",
    "choose_recompute",
    "find_nonfinite",
    "get_config",
    "get_internvideo2_config",
    "last_layers",
    "observe_and_draw",
    "stochastic_depth",
]
