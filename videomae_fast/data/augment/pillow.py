"""RandAugment by Pillow on whole frames, before the crop: the published pixels, at the published cost."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._optional import require
from .policy import FILL, GEOMETRIC, RandAugmentDraw

_ENHANCERS = {"color": "Color", "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness"}
_PLAIN = ("autocontrast", "equalize", "invert")


def pillow_frames(frames: Tensor, draw: RandAugmentDraw) -> Tensor:
    """Apply a draw to every frame; the result of each op is rounded to uint8, as published.

    Args:
        frames: uint8 (T, height, width, 3), on the CPU, at the resolution of the source.
        draw: the ops, in order.

    Returns:
        uint8 (T, height, width, 3); `frames` themselves if the draw is empty.

    Raises:
        ImportError: Pillow is missing.
        TypeError: `frames` are not uint8.
        ValueError: `frames` have another shape.

    References:
        dataset/rand_augment.py of VideoMAE V2 with bicubic interpolation, `--train_interpolation`.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be (T, H, W, 3), got {tuple(frames.shape)}")
    if not draw:
        return frames
    image = require("PIL.Image")
    out = np.empty(frames.shape, dtype=np.uint8)
    for number, frame in enumerate(frames.numpy()):
        shown = image.fromarray(frame)
        for op, value in draw:
            shown = _moved(shown, op, value) if op in GEOMETRIC else _recolored(shown, op, value)
        out[number] = shown
    return torch.from_numpy(out)


def _moved(frame: Any, op: str, value: float) -> Any:
    image = require("PIL.Image")
    fill, bicubic = (FILL,) * 3, image.Resampling.BICUBIC
    if op == "rotate":
        return frame.rotate(value, bicubic, fillcolor=fill)
    coefficients = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * frame.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * frame.height),
    }[op]
    return frame.transform(frame.size, image.Transform.AFFINE, coefficients, bicubic, fillcolor=fill)


def _recolored(frame: Any, op: str, value: float) -> Any:
    ops = require("PIL.ImageOps")
    if op in _PLAIN:
        return getattr(ops, op)(frame)
    if op == "posterize":
        return ops.posterize(frame, int(value))
    if op == "solarize":
        return ops.solarize(frame, int(value))
    if op == "solarize_add":
        return frame.point([min(255, v + int(value)) if v < 128 else v for v in range(256)] * 3)
    return getattr(require("PIL.ImageEnhance"), _ENHANCERS[op])(frame).enhance(value)
