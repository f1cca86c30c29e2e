"""Pillow helpers that the pictures share. Every picture is a `PIL.Image.Image` in RGB, on white."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_write, disk_errors
from .._optional import require

LETTERS, LINE = 15, 20  # heights in pixels


def to_image(pixels: Tensor, zoom: int = 1) -> Any:
    """Turn pixels (H, W, 3), uint8 or in [0, 1], into a picture; each pixel becomes zoom x zoom pixels."""
    if pixels.dtype != torch.uint8:
        pixels = (pixels * 255).round().to(torch.uint8)
    return _pil("Image").fromarray(pixels.repeat_interleave(zoom, dim=0).repeat_interleave(zoom, dim=1).numpy())


def picture_format(path: Path) -> str:
    """Pillow's name of the format that the suffix of `path` names; one that it does not write raises ValueError."""
    image = _pil("Image")
    image.init()
    format = image.registered_extensions().get(path.suffix.lower())
    if format not in image.SAVE:
        raise ValueError(f"output must name a picture that Pillow writes, .png or .jpg for example, got '{path}'")
    return format


def save_picture(picture: Any, path: Path) -> None:
    """Write a picture, whole or not at all.

    Args:
        picture: a `PIL.Image.Image`.
        path: the file; its suffix names the format.

    Raises:
        ValueError: Pillow does not write this format.
        OSError: the disk is full or broken.
    """
    format = picture_format(path)
    with disk_errors(path), atomic_write(path) as partial:
        picture.save(partial, format=format)


def text(line: str) -> Any:
    """Draw a line of black text."""
    font = _pil("ImageFont").load_default(LETTERS)
    strip = _pil("Image").new("RGB", (ceil(font.getlength(line)), LINE), "white")
    _pil("ImageDraw").Draw(strip).text((0, 0), line, fill="black", font=font)
    return strip


def outline(picture: Any, box: Sequence[float], colour: tuple[int, int, int], width: int) -> None:
    """Outline the box (top, left, height, width), in pixels, on a picture; the line lies inside the box."""
    top, left, height, across = box
    corners = left, top, left + across - 1, top + height - 1
    _pil("ImageDraw").Draw(picture).rectangle([round(side) for side in corners], outline=colour, width=width)


def beside(pictures: Sequence[Any], gap: int) -> Any:
    """Put pictures side by side, from left to right, `gap` pixels apart."""
    canvas = _blank(sum(p.width + gap for p in pictures) - gap, max(p.height for p in pictures))
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def below(pictures: Sequence[Any], gap: int) -> Any:
    """Put pictures below each other, from top to bottom, `gap` pixels apart."""
    canvas = _blank(max(p.width for p in pictures), sum(p.height + gap for p in pictures) - gap)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height + gap
    return canvas


def framed(picture: Any, margin: int) -> Any:
    """Put a margin of `margin` pixels around a picture."""
    canvas = _blank(picture.width + 2 * margin, picture.height + 2 * margin)
    canvas.paste(picture, (margin, margin))
    return canvas


def _blank(width: int, height: int) -> Any:
    return _pil("Image").new("RGB", (width, height), "white")


def _pil(module: str) -> Any:
    return require(f"PIL.{module}")
