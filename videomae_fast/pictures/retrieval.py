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
SIDE = 160  # pixels of the smaller side of a frame, at least
LETTERS = 60  # of a caption
GREEN, GREY = (0, 150, 60), (190, 190, 190)
WIDTH = 4  # pixels of an outline


def save_retrieval(result: RetrievalResult, path: Path) -> None:
    """Draw captions, spread over the list, and of each the middle frames of the videos that are most similar to it.

    Args:
        result: an evaluation.
        path: file of the picture; its suffix names the format, for example .png.

    Raises:
        ValueError: Pillow does not write this format.
        ImportError: Pillow is missing.
        OSError: the disk is full or broken.
    """
    save_picture(draw_retrieval(result), path)


def draw_retrieval(result: RetrievalResult) -> Any:
    """Draw up to QUERIES captions and the middle frames of SHOWN videos for each, most similar first.

    Args:
        result: an evaluation.

    Returns:
        A `PIL.Image.Image`. A line says a caption and its rank; below each frame is the similarity. Right videos have a
        green outline, and say so. A frame is the middle one of the first view; a video that cannot be read now is
        white.
    """
    right = set(map(tuple, result.right.tolist()))
    rows = []
    for query in torch.linspace(0, len(result.captions) - 1, min(QUERIES, len(result.captions))).round().int().tolist():
        found = [each[query].tolist() for each in result.text_to_video]
        caption = printable(result.captions[query])
        caption = caption if len(caption) <= LETTERS else f"{caption[:LETTERS]}..."
        frames = [
            _marked(_frame(result, video), similarity, (query, video) in right)
            for video, similarity in list(zip(found[1], found[2], strict=True))[:SHOWN]
        ]
        rows.append(below([text(f"{caption}  (rank {found[0]})"), beside(frames, gap=6)], gap=2))
    return below(rows, gap=10)


def _marked(frame: Tensor, similarity: float, is_right: bool) -> Any:
    zoom = max(1, -(-SIDE // min(frame.shape[:2])))
    picture = to_image(frame, zoom)
    outline(picture, (0, 0, picture.height, picture.width), GREEN if is_right else GREY, WIDTH)
    return below([picture, text(f"{similarity:.3f}{' right' if is_right else ''}")], gap=0)


def _frame(result: RetrievalResult, video: int) -> Tensor:
    """(H, W, 3) uint8."""
    dataset, index = result.views[video]
    clips = dataset[index].clips
    if clips is None:
        return torch.full((*dataset.size, 3), 255, dtype=torch.uint8)
    pixels = normalized_clips(clips, mean=(0.0,) * 3, std=(1 / 255,) * 3)[0]
    return pixels[:, pixels.shape[1] // 2].round().to(torch.uint8).permute(1, 2, 0)
