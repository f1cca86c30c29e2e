"""What one forward pass of the towers takes in contrastive pre-training."""

from typing import NamedTuple

from torch import Tensor

from ..data.captioned import CaptionTokens
from ..models.encoder import Clip
from ..models.video_tower import VideoRows
from .gradient_cache import PartGradient


class Part(NamedTuple):
    """What one forward pass of the towers takes.

    Attributes:
        clips: B clips; None where the rows of the video tower are given.
        video: what the video tower made of them, kept while it is frozen; else None.
        visible: (B, K) int64 tokens that the video tower sees; None: all.
        captions: tokens of the captions; None where their features are given.
        text: (B, E) features of the captions, kept from a frozen tower; else None.
        video_id: (B,) int64, equal for the same video.
        caption_id: (B,) int64, equal for equal captions.
        sample: (B,) int64 sample numbers, on the device.
        pair_ids: (B,) int64, equal for pairs that are no negatives of each other; None without fusion, and
            where no pair has a negative.
        numbers: `sample` on the host.
        sound: (B, 998, 64) spectrograms; None of images, and without an audio tower.
        gradient: what the part contributes to a batch of several parts; None: the part is the batch.
        sound_gradient: the same of sound and video.
    """

    clips: Clip | None
    video: VideoRows | None
    visible: Tensor | None
    captions: CaptionTokens | None
    text: Tensor | None
    video_id: Tensor
    caption_id: Tensor
    sample: Tensor
    pair_ids: Tensor | None
    numbers: Tensor
    sound: Tensor | None = None
    gradient: PartGradient | None = None
    sound_gradient: PartGradient | None = None
