"""VideoMAE V2, InternVideo2 and dual encoders as thin modules over the ops of videomae_kernels."""

from .alignment_heads import AlignmentHeads, AlignmentLosses
from .audio_fusion import AudioVideoTextModel
from .audio_tower import AudioRows, AudioTower, BeatsConfig
from .bert import BERT_LARGE, SplitBert, SplitBertConfig
from .classify import VideoMAEForClassification
from .config import (
    CONFIGS,
    INTERNVIDEO2_CONFIGS,
    InternVideo2Config,
    VideoMAEConfig,
    get_config,
    get_internvideo2_config,
)
from .dual_encoder import TEMPERATURES, PairFeatures, VideoTextModel
from .frozen_teacher import find_nonfinite, last_layers, observe_and_draw
from .fusion import FusionOutput, VideoTextFusionModel, vtm_loss
from .guides import InternVideo2Guide
from .internvideo2 import InternVideo2, InternVideo2ForAlignment
from .internvideo2_classify import InternVideo2ForClassification
from .internvideo2_tower import InternVideo2Tower
from .memory_budget import choose_recompute
from .negatives import hard_negatives
from .pretrain import VideoMAEForPretraining
from .stochastic_depth import stochastic_depth
from .teachers import Observation, TeacherRows
from .text_tower import TextRows, TextTower
from .video_teacher import VideoMAETeacher
from .video_tower import VideoRows, VideoTower
from .video_transformer import VideoTransformer
from .word_masks import mask_words, mlm_loss

__all__ = [
    "BERT_LARGE",
    "CONFIGS",
    "INTERNVIDEO2_CONFIGS",
    "TEMPERATURES",
    "AlignmentHeads",
    "AlignmentLosses",
    "AudioRows",
    "AudioTower",
    "AudioVideoTextModel",
    "BeatsConfig",
    "FusionOutput",
    "InternVideo2",
    "InternVideo2Config",
    "InternVideo2ForAlignment",
    "InternVideo2ForClassification",
    "InternVideo2Guide",
    "InternVideo2Tower",
    "Observation",
    "PairFeatures",
    "SplitBert",
    "SplitBertConfig",
    "TeacherRows",
    "TextRows",
    "TextTower",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "VideoMAETeacher",
    "VideoRows",
    "VideoTextFusionModel",
    "VideoTextModel",
    "VideoTower",
    "VideoTransformer",
    "choose_recompute",
    "find_nonfinite",
    "get_config",
    "get_internvideo2_config",
    "hard_negatives",
    "last_layers",
    "mask_words",
    "mlm_loss",
    "observe_and_draw",
    "stochastic_depth",
    "vtm_loss",
]
