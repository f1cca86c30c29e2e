"""VideoMAE V2, InternVideo2, dual encoders and captioners as thin modules over the ops of videomae_kernels."""

from .alignment_heads import AlignmentHeads, AlignmentLosses
from .audio_fusion import AudioVideoTextModel
from .audio_tower import AudioRows, AudioTower, BeatsConfig
from .bert import BERT_LARGE, SplitBert, SplitBertConfig
from .captioner import CaptionLoss, VideoCaptioner
from .chat_tokens import ChatTokens, begin_captions, encode_captions, encode_chat
from .classify import VideoMAEForClassification
from .config import (
    CONFIGS,
    INTERNVIDEO2_CONFIGS,
    InternVideo2Config,
    VideoMAEConfig,
    get_config,
    get_internvideo2_config,
)
from .connectors import Connector, MeanPoolMLP, PerceiverResampler, QFormer, temporal_mean
from .dual_encoder import TEMPERATURES, PairFeatures, VideoTextModel
from .frozen_teacher import find_nonfinite, last_layers, observe_and_draw
from .fusion import FusionOutput, VideoTextFusionModel, vtm_loss
from .gated_attention import GatedCrossAttention
from .guides import InternVideo2Guide
from .internvideo2 import InternVideo2, InternVideo2ForAlignment
from .internvideo2_classify import InternVideo2ForClassification
from .internvideo2_tower import InternVideo2Tower
from .language_model import LORA_TARGETS, add_language_lora
from .memory_budget import choose_recompute
from .negatives import hard_negatives
from .next_token import language_model_loss
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
    "LORA_TARGETS",
    "TEMPERATURES",
    "AlignmentHeads",
    "AlignmentLosses",
    "AudioRows",
    "AudioTower",
    "AudioVideoTextModel",
    "BeatsConfig",
    "CaptionLoss",
    "ChatTokens",
    "Connector",
    "FusionOutput",
    "GatedCrossAttention",
    "InternVideo2",
    "InternVideo2Config",
    "InternVideo2ForAlignment",
    "InternVideo2ForClassification",
    "InternVideo2Guide",
    "InternVideo2Tower",
    "MeanPoolMLP",
    "Observation",
    "PairFeatures",
    "PerceiverResampler",
    "QFormer",
    "SplitBert",
    "SplitBertConfig",
    "TeacherRows",
    "TextRows",
    "TextTower",
    "VideoCaptioner",
    "VideoMAEConfig",
    "VideoMAEForClassification",
    "VideoMAEForPretraining",
    "VideoMAETeacher",
    "VideoRows",
    "VideoTextFusionModel",
    "VideoTextModel",
    "VideoTower",
    "VideoTransformer",
    "add_language_lora",
    "begin_captions",
    "choose_recompute",
    "encode_captions",
    "encode_chat",
    "find_nonfinite",
    "get_config",
    "get_internvideo2_config",
    "hard_negatives",
    "language_model_loss",
    "last_layers",
    "mask_words",
    "mlm_loss",
    "observe_and_draw",
    "stochastic_depth",
    "temporal_mean",
    "vtm_loss",
]
