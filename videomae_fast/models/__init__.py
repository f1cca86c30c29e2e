"""VideoMAE V2 as thin modules over the ops of videomae_kernels."""

from .classify import VideoMAEForClassification
from .config import CONFIGS, VideoMAEConfig, get_config
from .memory_budget import choose_recompute
from .pretrain import VideoMAEForPretraining
from .stochastic_depth import stochastic_depth

__all__ = [
    "CONFIGS",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "choose_recompute",
    "get_config",
    "stochastic_depth",
]
