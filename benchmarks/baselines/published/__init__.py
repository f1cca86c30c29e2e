"""The published code of VideoMAE V2 (OpenGVLab/VideoMAEv2@29eab1e), written again in plain PyTorch: the rival.

model            its mathematics, order of operations and parameter names
classifier       the same of its fine-tuning model
release_classes  its class names, attributes and calls, for `fuse`
loss, masks      its target, loss and mask generators
loader           what its data loader does with a decoded video
rand_augment     what its fine-tuning loader does with one
views, windows   what its evaluation and its feature extraction do with one
checkout         a user's own checkout of the real thing
"""

from .classifier import PublishedClassifier
from .loss import published_loss, published_target
from .model import PublishedVideoMAE, sinusoid_table

__all__ = ["PublishedClassifier", "PublishedVideoMAE", "published_loss", "published_target", "sinusoid_table"]
