"""What one forward pass of training on answers takes."""

from typing import NamedTuple

from torch import Tensor

from ..models.chat_tokens import ChatTokens
from ..models.encoder import Clip


class Part(NamedTuple):
    """A part of a step.

    Attributes:
        clips: B clips.
        tokens: of their texts.
        visible: (B, K) int64 tokens that the video tower sees; None: all.
        numbers: sample numbers, on the host.
        weight: () float32, what the mean over the part's answer tokens counts in the loss of the step.
    """

    clips: Clip
    tokens: ChatTokens
    visible: Tensor | None
    numbers: Tensor
    weight: Tensor
