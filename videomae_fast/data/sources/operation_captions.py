"""Videos of known operations with captions, as files: a list that training on captions reads as any other.

A caption says what happens over time, and nothing of what is seen: footage, frames and crops are drawn alike for all
operations (operations.py). So no frame tells which caption is right.

File structure:
    CAPTIONS                the captions of each operation
    write_operation_clips   a list of captions, and the videos that it names
"""

from collections.abc import Sequence
from pathlib import Path

from .operations import OperationClips
from .written_clips import write_captioned_clips

# Two of each operation, and no two operations share one.
CAPTIONS = {
    "freeze": ("a still picture", "time stands still"),
    "halves swapped": ("the second half comes before the first", "cut in two and joined in the wrong order"),
    "zoom in": ("zooming in", "everything comes closer"),
    "zoom out": ("zooming out", "all shrinks and goes far away"),
    "pan left": ("panning left", "a glide to the left side"),
    "pan right": ("panning right", "looking over to what is right of it"),
    "pan up": ("tilting up", "the view rises"),
    "pan down": ("tilting down", "sinking towards the ground"),
}


def write_operation_clips(clips: OperationClips, numbers: Sequence[int], folder: Path) -> Path:
    """Write clips as videos, with the captions of their operations.

    Args:
        clips: their operations are keys of CAPTIONS; of an even `size`.
        numbers: of the clips.
        folder: for captions.tsv, a [list](captions.py) with all captions of each clip, and the videos it names.

    Returns:
        The path of the list.

    Raises:
        ValueError: an operation has no captions; or as `write_captioned_clips`.
        ImportError: PyAV is missing.
        OSError: a file cannot be written.
    """
    if unknown := [name for name in clips.operations if name not in CAPTIONS]:
        raise ValueError(f"operations with captions are {', '.join(CAPTIONS)}, got {', '.join(unknown)}")
    captions = (CAPTIONS[clips.operations[clips.plan(number).operation]] for number in numbers)
    return write_captioned_clips(zip(map(clips.clip, numbers), captions, strict=True), folder)
