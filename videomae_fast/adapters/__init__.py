"""Weights to and from the published checkpoint layout and Hugging Face's."""

from videomae_fast.adapters.convert import convert
from videomae_fast.adapters.huggingface import from_huggingface, to_huggingface
from videomae_fast.adapters.loading import load_huggingface
from videomae_fast.adapters.published import CheckpointError, load_published, load_weights, save_published

__all__ = [
    "CheckpointError",
    "convert",
    "from_huggingface",
    "load_huggingface",
    "load_published",
    "load_weights",
    "save_published",
    "to_huggingface",
]
