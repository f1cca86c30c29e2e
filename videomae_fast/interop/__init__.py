"""Interoperability with other libraries' models and weights: fuse a model; load, save and convert checkpoints."""

from .audio_tower import beats_config_of, init_audio_tower
from .captioner import init_captioner, init_connector, load_captioner, save_captioner
from .checkpoint import CheckpointError, load_weights
from .classifier import Classifier, read_classifier
from .conversion import convert
from .features import FeatureModel, read_feature_model
from .fusion import FusionError, fuse, unfuse
from .huggingface.language_model import LanguageModelFolder, read_chat_tokenizer, read_language_model
from .huggingface.loading import load_huggingface
from .huggingface.text import read_text_tower, read_tokenizer, split_bert_config
from .huggingface.weights import from_huggingface, to_huggingface
from .initialization import init_weights
from .internvideo2 import internvideo2_config_of
from .labels import CLASSES_FILE, class_names_beside, head_rows, lists_rows, read_head_rows, read_merged_names
from .official.model import pretrain_loss
from .official.weights import load_published, save_published
from .settings import parse_clip, trained_clip
from .teachers import read_guide, read_video_teacher
from .video_text import init_split_bert, init_video_text
from .video_tower import init_video_tower

__all__ = [
    "CLASSES_FILE",
    "CheckpointError",
    "Classifier",
    "FeatureModel",
    "FusionError",
    "LanguageModelFolder",
    "beats_config_of",
    "class_names_beside",
    "convert",
    "from_huggingface",
    "fuse",
    "head_rows",
    "init_audio_tower",
    "init_captioner",
    "init_connector",
    "init_split_bert",
    "init_video_text",
    "init_video_tower",
    "init_weights",
    "internvideo2_config_of",
    "lists_rows",
    "load_captioner",
    "load_huggingface",
    "load_published",
    "load_weights",
    "parse_clip",
    "pretrain_loss",
    "read_chat_tokenizer",
    "read_classifier",
    "read_feature_model",
    "read_guide",
    "read_head_rows",
    "read_language_model",
    "read_merged_names",
    "read_text_tower",
    "read_tokenizer",
    "read_video_teacher",
    "save_captioner",
    "save_published",
    "split_bert_config",
    "to_huggingface",
    "trained_clip",
    "unfuse",
]
