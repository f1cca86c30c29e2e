"""Clips with captions: their data set, their batches, and a loader that alternates images and videos."""

from .batch import CaptionCounts, CaptionedBatch, CaptionTokens, positive_ids
from .dataset import CaptionedDataset, split_kinds
from .loader import AlternatingSampler, make_captioned_loader
from .merge import merge_captions
from .tokenizer import CaptionTokenizer

__all__ = [
    "AlternatingSampler",
    "CaptionCounts",
    "CaptionTokenizer",
    "CaptionTokens",
    "CaptionedBatch",
    "CaptionedDataset",
    "make_captioned_loader",
    "merge_captions",
    "positive_ids",
    "split_kinds",
]
