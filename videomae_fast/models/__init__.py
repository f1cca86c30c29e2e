"""Thin VideoMAE models over the ops."""

from .config import CONFIGS, VideoMAEConfig, get_config
from .pretrain import VideoMAEForPretraining

__all__ = ["CONFIGS", "VideoMAEConfig", "VideoMAEForPretraining", "get_config"]
