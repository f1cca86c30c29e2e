"""The published stage 1 of InternVideo2 (OpenGVLab/InternVideo@3965eef, InternVideo2/single_modality): the rival.

Written in plain PyTorch from a description of it; it shares nothing with our models.

layers      blocks, attention pooling, patch embedding, position table
student     the model that is aligned, with its heads
classifier  the same encoder, fine-tuned
teachers    the image encoder that guides masks, the video encoder, and an aligned model as a teacher
selection   rows that boolean masks leave
alignment   masks, targets and losses
"""

from .alignment import alignment_losses, attention_mask, kept_targets, total_loss
from .classifier import PublishedInternVideo2Classifier
from .layers import position_table
from .student import PublishedInternVideo2
from .teachers import PublishedClipTeacher, PublishedImageTeacher, PublishedVideoTeacher

__all__ = [
    "PublishedClipTeacher",
    "PublishedImageTeacher",
    "PublishedInternVideo2",
    "PublishedInternVideo2Classifier",
    "PublishedVideoTeacher",
    "alignment_losses",
    "attention_mask",
    "kept_targets",
    "position_table",
    "total_loss",
]
