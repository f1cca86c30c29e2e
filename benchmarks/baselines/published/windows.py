"""The windows that features of long videos are made of, as `extract_tad_feature.py` of the release makes them.

For every window anew: read its frames, divide by 255, and resize both sides to the size of the model, bilinear without
antialiasing, in float32; pixels are not normalised. Frames after the last whole window are dropped. Written from the
specification; source: https://github.com/OpenGVLab/VideoMAEv2.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def published_windows(
    video: Any,  # has a length and is indexed by a list of numbers: (n, height, width, 3) uint8
    length: int,
    stride: int,
    size: tuple[int, int],  # (H, W)
) -> Iterator[Tensor]:
    """(3, length, H, W) float32 in [0, 1], of each window."""
    for start in range(0, len(video) - length + 1, stride):
        frames = torch.from_numpy(video[list(range(start, start + length))])
        planes = frames.permute(0, 3, 1, 2).float() / 255
        resized = functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
        yield resized.transpose(0, 1)
