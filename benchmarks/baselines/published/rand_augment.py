"""Published fine-tuning augmentation of one clip, in plain Pillow and PyTorch: pixels, time and bytes to compare with.

Written from the specification. Sources in https://github.com/OpenGVLab/VideoMAEv2: `dataset/rand_augment.py`
(`rand_augment_transform`), `dataset/datasets.py` (`_aug_frame`), `dataset/video_transforms.py`
(`random_resized_crop`, `horizontal_flip`), `dataset/random_erasing.py` (`RandomErasing`, mode "pixel").

Ops, box, flip and erased box of a clip are arguments, so that it can be compared on any draw of ours.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines.published.loss import IMAGENET_MEAN, IMAGENET_STD

FILL = (128, 128, 128)
OPS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)


def op_argument(op: str, magnitude: float, negative: bool) -> float:
    """What an op is called with at a magnitude in [0, 10]; 0 for ops without magnitude."""
    level, sign = magnitude / 10, -1.0 if negative else 1.0
    match op:
        case "autocontrast" | "equalize" | "invert":
            return 0.0
        case "rotate":
            return sign * (level * 30.0)
        case "posterize":
            return 4 - int(level * 4)
        case "solarize":
            return 256 - min(256, int(level * 256))
        case "solarize_add":
            return min(128, int(level * 110))
        case "color" | "contrast" | "brightness" | "sharpness":
            return 1.0 + sign * (level * 0.9)
        case "shear_x" | "shear_y":
            return sign * (level * 0.3)
        case "translate_x" | "translate_y":
            return sign * (level * 0.45)
    raise ValueError(f"op must be one of {OPS}, got {op!r}")


def apply_op(image: Image.Image, op: str, magnitude: float, negative: bool) -> Image.Image:
    """One op of the set whose strength grows with the magnitude."""
    return apply_argument(image, op, op_argument(op, magnitude, negative))


def apply_argument(image: Image.Image, op: str, argument: float) -> Image.Image:
    """One op with what `op_argument` returns."""
    match op:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case "rotate":
            return image.rotate(argument, resample=Image.Resampling.BICUBIC, fillcolor=FILL)
        case "posterize":
            return ImageOps.posterize(image, int(argument))
        case "solarize":
            return ImageOps.solarize(image, int(argument))
        case "solarize_add":
            return image.point([min(255, i + int(argument)) if i < 128 else i for i in range(256)] * 3)
        case "color":
            return ImageEnhance.Color(image).enhance(argument)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(argument)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(argument)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(argument)
        case "shear_x":
            return _affine(image, (1, argument, 0, 0, 1, 0))
        case "shear_y":
            return _affine(image, (1, 0, 0, argument, 1, 0))
        case "translate_x":
            return _affine(image, (1, 0, argument * image.size[0], 0, 1, 0))
        case "translate_y":
            return _affine(image, (1, 0, 0, 0, 1, argument * image.size[1]))
    raise ValueError(f"op must be one of {OPS}, got {op!r}")


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample=bicubic, fillcolor=FILL)


def rand_augment(images: Sequence[Image.Image], magnitude: float, num_ops: int, std: float) -> list[Image.Image]:
    """Draw as published, from the global generators: ops with replacement, each with probability ½."""
    images = list(images)
    for op in np.random.choice(OPS, num_ops):
        if random.random() > 0.5:
            continue
        drawn = min(10.0, max(0.0, random.gauss(magnitude, std)))
        negative = random.random() > 0.5
        images = [apply_op(image, op, drawn, negative) for image in images]
    return images


def published_clip(
    frames: np.ndarray,  # (T, height, width, 3) uint8
    box: Sequence[int],  # (top, left, height, width)
    flipped: bool,
    size: tuple[int, int],  # (H, W)
    ops: Sequence[tuple[str, float]],  # of RandAugment, each with its argument, in order
    erased: Sequence[int] | None = None,  # (top, left, height, width) of the clip
) -> Tensor:
    """What a published worker makes of decoded frames: (3, T, H, W) float32, normalised."""
    images = [Image.fromarray(frame) for frame in frames]
    for op, argument in ops:
        images = [apply_argument(image, op, argument) for image in images]
    planes = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])
    clip = planes.permute(0, 2, 3, 1)  # (T, height, width, 3)
    clip = (clip - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    clip = clip.permute(3, 0, 1, 2)
    top, left, height, width = box
    clip = clip[:, :, top : top + height, left : left + width]
    clip = functional.interpolate(clip, size=size, mode="bilinear", align_corners=False)
    clip = clip.flip(3) if flipped else clip
    return clip if erased is None else _erase(clip, erased)


def _erase(clip: Tensor, box: Sequence[int]) -> Tensor:
    """The box of every frame becomes new noise."""
    top, left, height, width = box
    for frame in clip.unbind(1):
        frame[:, top : top + height, left : left + width] = torch.empty(3, height, width).normal_()
    return clip
