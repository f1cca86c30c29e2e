"""Interoperability with other libraries' models and weights: fuse a model; load, save and convert checkpoints."""

from .checkpoint import CheckpointError, load_weights
from .classifier import Classifier, read_classifier
from .conversion import convert
from .features import read_feature_model
from .fusion import FusionError, fuse, unfuse
from .huggingface.loading import load_huggingface
from .huggingface.weights import from_huggingface, to_huggingface
from .initialization import init_weights
from .labels import head_rows, read_class_names, read_head_rows, read_merged_names
from .official.model import pretrain_loss
from .official.weights import load_published, save_published
from .settings import trained_clip

__all__ = [
    "CheckpointError",
    "Classifier",
    "FusionError",
    "convert",
    "from_huggingface",
    "fuse",
    "head_rows",
    "init_weights",
    "load_huggingface",
    "load_published",
    "load_weights",
    "pretrain_loss",
    "read_class_names",
    "read_classifier",
    "read_feature_model",
    "read_head_rows",
    "read_merged_names",
    "save_published",
    "to_huggingface",
    "trained_clip",
    "unfuse",
]
