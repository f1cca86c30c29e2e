"""Random erasing: a box of some clips becomes noise, on the device, after normalisation."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..crops import CropBox

AREAS = (0.02, 1 / 3)  # as fractions of the clip's area
ASPECTS = (0.3, 1 / 0.3)  # height / width
TRIES = 100


class ErasingDraw(NamedTuple):
    """A box of one clip that becomes noise.

    Attributes:
        box: the rectangle, the same in all frames.
        noise_seed: of the noise, in [0, 2**63).
    """

    box: CropBox
    noise_seed: int


def draw_erasing(size: tuple[int, int], probability: float, rng: np.random.Generator) -> ErasingDraw | None:
    """Draw whether a clip is erased, and where.

    The area is uniform in [0.02, 1/3] of the clip's, the aspect ratio (height / width) log-uniform in [0.3, 1/0.3], the
    position uniform. Of 100 draws the first that is smaller than the clip in both sides is taken.

    Args:
        size: (H, W) of the clip, in pixels.
        probability: that the clip is erased.
        rng: makes the draws.

    Returns:
        The draw; None if the clip is not erased, or is too small.

    References:
        `RandomErasing(mode="pixel", max_count=1)` of VideoMAE V2, dataset/random_erasing.py; Zhong et al., Random
        erasing data augmentation, AAAI 2020.
    """
    if rng.random() >= probability:
        return None
    for _ in range(TRIES):
        area = rng.uniform(*AREAS) * size[0] * size[1]
        aspect = math.exp(rng.uniform(*np.log(ASPECTS)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= height < size[0] and 1 <= width < size[1]:
            top, left = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
            return ErasingDraw(CropBox(int(top), int(left), height, width), int(rng.integers(2**63)))
    return None


def erase(clips: Tensor, draws: list[ErasingDraw | None]) -> Tensor:
    """Fill the boxes of erased clips with noise from N(0, 1), new for every frame, channel and pixel.

    PyTorch's generator makes the noise from the seed of the draw. It is the same for the same model of GPU, or for
    CPUs, and version of PyTorch, whatever else is in the batch; a CPU and a GPU, or two models of GPU, differ.

    Args:
        clips: (B, C, T, H, W) floating and normalised; overwritten.
        draws: of each clip; None leaves it as it is.

    Returns:
        `clips`.

    Raises:
        ValueError: there are not as many draws as clips.
        TypeError: `clips` are not floating.
    """
    if not clips.is_floating_point():
        raise TypeError(f"clips must be floating and normalised, got {clips.dtype}")
    if len(draws) != len(clips):
        raise ValueError(f"draws must have one entry for each of {len(clips)} clips, got {len(draws)}")
    generator = torch.Generator(clips.device)
    for clip, draw in zip(clips, draws, strict=True):
        if draw is None:
            continue
        top, left, height, width = draw.box
        generator.manual_seed(draw.noise_seed)
        shape = (*clip.shape[:2], height, width)
        noise = torch.randn(shape, generator=generator, device=clip.device, dtype=torch.float32)
        clip[:, :, top : top + height, left : left + width] = noise
    return clips
