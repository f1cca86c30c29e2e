"""The published VideoMAE V2 loader after decoding, to compare with ours: pixels, time and bytes.

It does the work of https://github.com/OpenGVLab/VideoMAEv2 in the same order and with the same copies: PIL images of
the frames, once for all crops of a video; for each crop Pillow's bilinear resize, frames stacked along channels,
float32 in [0, 1], a loop that normalises channel by channel, and the two masks as float64; then one stack over all
crops of all videos. Written from the specification. Sources: `datasets/transforms.py` (GroupMultiScaleCrop, Stack,
ToTorchFormatTensor, GroupNormalize), `datasets/pretrain_datasets.py` (DataAugmentationForVideoMAEv2, HybridVideoMAE),
`datasets/masking_generator.py`, and `multiple_pretrain_samples_collate` in `utils.py`.

It neither decodes frames nor draws boxes: both loaders get the same decoded frames and the same boxes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD
from benchmarks.baselines.published.masks import Grid, running_cell_mask, tube_mask

MASK_RATIO, DECODER_MASK_RATIO, PHASES = 0.9, 0.5, 4


class PublishedSample(NamedTuple):
    """One crop of a video, or a batch of B crops: what the training step sends to the GPU."""

    clip: Tensor  # (3, T, H, W) float32, normalised
    hidden: np.ndarray | Tensor  # (N,) float64, 1 where the encoder sees nothing
    not_decoded: np.ndarray | Tensor  # (N,) float64, 1 where the decoder predicts nothing


def published_samples(
    frames: np.ndarray,  # (T, height, width, 3) uint8
    boxes: Sequence[Sequence[int]],  # (top, left, height, width) of each crop
    size: tuple[int, int],  # (H, W)
    grid: Grid,  # tokens
    rng: np.random.Generator,  # draws the masks
) -> list[PublishedSample]:
    """All crops of one decoded video."""
    images = [Image.fromarray(frame).convert("RGB") for frame in frames]
    return [PublishedSample(_clip(images, box, size), *_masks(grid, rng)) for box in boxes]


def published_collate(videos: Sequence[Sequence[PublishedSample]]) -> PublishedSample:
    """All crops of all videos as one batch."""
    return default_collate([sample for samples in videos for sample in samples])


def _clip(images: Sequence[Image.Image], box: Sequence[int], size: tuple[int, int]) -> Tensor:
    top, left, height, width = box
    crops = [image.crop((left, top, left + width, top + height)) for image in images]
    resized = [crop.resize(size[::-1], Image.Resampling.BILINEAR) for crop in crops]
    stacked = np.concatenate([np.asarray(image) for image in resized], axis=2)  # (H, W, T * 3)
    planes = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255.0)
    for plane, mean, std in zip(planes, IMAGENET_MEAN * len(images), IMAGENET_STD * len(images), strict=True):
        plane.sub_(mean).div_(std)
    return planes.view(len(images), 3, *size).transpose(0, 1)


def _masks(grid: Grid, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    hidden = tube_mask(grid, MASK_RATIO, rng)
    not_decoded = running_cell_mask(grid, DECODER_MASK_RATIO, int(rng.integers(PHASES)))
    return hidden.astype(np.float64), not_decoded.astype(np.float64)
