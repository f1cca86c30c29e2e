"""The picture of a retrieval: captions, and the videos that are most similar to them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._text import printable
from ..data.augment import normalized_clips
from ..recipes.evaluate_retrieval import RetrievalResult
from .canvas import below, beside, outline, save_picture, text, to_image

QUERIES, SHOWN = 6, 3  # captions of the picture, and videos of each
SIDE = 160  # pixels of the smaller side of a frame, at least; of several frames, of all together
LETTERS = 60  # of a caption
GREEN, GREY = (0, 150, 60), (190, 190, 190)
WIDTH = 4  # pixels of an outline


def save_retrieval(result: RetrievalResult, path: Path, frames: int = 1) -> None:
    """Draw captions, spread over the list, and of each some frames of the videos that are most similar to it.

    Args:
        result: an evaluation.
        path: file of the picture; its suffix names the format, for example .png.
        frames: as in `draw_retrieval`.

    Raises:
        ValueError: Pillow does not write this format.
        ImportError: Pillow is missing.
        OSError: the disk is full or broken.
    """
    save_picture(draw_retrieval(result, frames), path)


def draw_retrieval(result: RetrievalResult, frames: int = 1) -> Any:
    """Draw up to QUERIES captions and frames of SHOWN videos for each, most similar first.

    Args:
        result: an evaluation.
        frames: of each video, spread over its first view from its first to its last frame; 1: the middle one.

    Returns:
        A `PIL.Image.Image`. A line says a caption and its rank; below each video is the similarity. Right videos have a
        green outline, and say so. A video that cannot be read now is white.
    """
    right = set(map(tuple, result.right.tolist()))
    rows = []
    for query in torch.linspace(0, len(result.captions) - 1, min(QUERIES, len(result.captions))).round().int().tolist():
        found = [each[query].tolist() for each in result.text_to_video]
        caption = printable(result.captions[query])
        caption = caption if len(caption) <= LETTERS else f"{caption[:LETTERS]}..."
        strips = [
            _marked(_strip(result, video, frames), frames, similarity, (query, video) in right)
            for video, similarity in list(zip(found[1], found[2], strict=True))[:SHOWN]
        ]
        rows.append(below([text(f"{caption}  (rank {found[0]})"), beside(strips, gap=6)], gap=2))
    return below(rows, gap=10)


def _marked(strip: Tensor, frames: int, similarity: float, is_right: bool) -> Any:
    side = min(strip.shape[0], strip.shape[1] // frames)
    picture = to_image(strip, zoom=max(1, -(-SIDE // (side * frames))))
    outline(picture, (0, 0, picture.height, picture.width), GREEN if is_right else GREY, WIDTH)
    return below([picture, text(f"{similarity:.3f}{' right' if is_right else ''}")], gap=0)


def _strip(result: RetrievalResult, video: int, frames: int) -> Tensor:
    """(H, frames·W, 3) uint8."""
    dataset, index = result.views[video]
    clips = dataset[index].clips
    if clips is None:
        height, width = dataset.size
        return torch.full((height, frames * width, 3), 255, dtype=torch.uint8)
    pixels = normalized_clips(clips, mean=(0.0,) * 3, std=(1 / 255,) * 3)[0]
    last = pixels.shape[1] - 1
    places = torch.linspace(0, last, frames).round().long() if frames > 1 else torch.tensor([(last + 1) // 2])
    return pixels[:, places].round().to(torch.uint8).permute(2, 1, 3, 0).flatten(1, 2)
