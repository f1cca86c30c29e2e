"""Interoperability with other libraries' models and weights: fuse a model; load, save and convert checkpoints."""

from .checkpoint import CheckpointError, load_weights
from .classifier import Classifier, read_classifier
from .conversion import convert
from .features import FeatureModel, read_feature_model
from .fusion import FusionError, fuse, unfuse
from .huggingface.loading import load_huggingface
from .huggingface.weights import from_huggingface, to_huggingface
from .initialization import init_weights
from .internvideo2 import internvideo2_config_of
from .labels import CLASSES_FILE, class_names_beside, head_rows, lists_rows, read_head_rows, read_merged_names
from .official.model import pretrain_loss
from .official.weights import load_published, save_published
from .settings import parse_clip, trained_clip
from .teachers import read_guide, read_video_teacher

__all__ = [
    "CLASSES_FILE",
    "CheckpointError",
    "Classifier",
    "FeatureModel",
    "FusionError",
    "class_names_beside",
    "convert",
    "from_huggingface",
    "fuse",
    "head_rows",
    "init_weights",
    "internvideo2_config_of",
    "lists_rows",
    "load_huggingface",
    "load_published",
    "load_weights",
    "parse_clip",
    "pretrain_loss",
    "read_classifier",
    "read_feature_model",
    "read_guide",
    "read_head_rows",
    "read_merged_names",
    "read_video_teacher",
    "save_published",
    "to_huggingface",
    "trained_clip",
    "unfuse",
]
