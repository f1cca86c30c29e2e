"""The teachers of an alignment: which of their blocks teach which of the student's, and what they see in a batch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._text import printable
from ..interop import read_guide, read_video_teacher
from ..models import AlignmentHeads, InternVideo2Config, TeacherRows
from ..models.encoder import Clip
from .align_options import AlignMasks, TeacherOptions
from .start import last_checkpoint

PUBLISHED_IMAGE_LAYERS, PUBLISHED_VIDEO_LAYERS = 6, 4


def paired_layers(
    student_depth: int, teacher_depth: int, count: int, published: int, interval: float = 1.0
) -> list[tuple[int, int]]:
    """The blocks of the student that learn, each with the block of the teacher that it learns from.

        pair j = (L − 1 − j, L_T − 1 − ⌊j · interval⌋),    j = 0, …, count − 1

    Args:
        student_depth: L.
        teacher_depth: L_T.
        count: pairs; 0 for `published`, or as many as both models have blocks for.
        published: the published number of pairs.
        interval: blocks of the teacher from one pair to the next, at least 1.

    Returns:
        The pairs, ascending.

    Raises:
        ValueError: a model has too few blocks.

    References:
        return_index in models/internvl_clip_vision.py and internvideo2_teacher.py of the published code.
    """
    most = 0
    while most < student_depth and int(most * interval) < teacher_depth:
        most += 1
    if count > most:
        raise ValueError(
            f"{count} layers are too many: the student has {student_depth} blocks and the teacher {teacher_depth}, "
            f"enough for {most}" + (f" at an interval of {interval:g}" if interval != 1 else "")
        )
    pairs = [(student_depth - 1 - j, teacher_depth - 1 - int(j * interval)) for j in range(count or min(most, published))]
    return pairs[::-1]
