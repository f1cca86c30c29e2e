"""Videos of known operations with captions, as files: a list that training on captions reads as any other.

A caption says what happens over time, and nothing of what is seen: footage, frames and crops are drawn alike for all
operations (operations.py). So no frame tells which caption is right.

File structure:
    CAPTIONS                the captions of each operation
    write_operation_clips   a list of captions, and the videos that it names
    write_clip              one video
"""

import json
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..._files import atomic_write
from ..._optional import require
from .operations import OperationClips

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
FPS = 8
_OPTIONS = {"preset": "ultrafast", "crf": "12"}  # finer than x264's default: a clip has few pixels


def write_operation_clips(clips: OperationClips, numbers: Iterable[int], path: Path) -> None:
    """Write a list of captioned videos, and the videos.

    A line has one video and the captions of its operation. The same arguments give the same files, which replace what
    is there.

    Args:
        clips: their operations are keys of CAPTIONS; frames with even sides.
        numbers: of the clips.
        path: of the list, "….jsonl". The videos are in the folder of the same name without suffix, "<number>.mp4".

    Raises:
        ValueError: an operation has no captions, or the sides of frames are odd.
        ImportError: PyAV is missing.
        OSError: a file cannot be written.
    """
    if unknown := [name for name in clips.operations if name not in CAPTIONS]:
        raise ValueError(f"operations with captions are {', '.join(CAPTIONS)}, got {', '.join(unknown)}")
    if clips.size % 2:
        raise ValueError(f"size must be even, as the colours of videos need it, got {clips.size}")
    folder, lines = path.with_suffix(""), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        file = folder / f"{number:05}.mp4"
        with atomic_write(file) as partial:
            write_clip(clips.clip(number), partial)
        captions = CAPTIONS[clips.operations[clips.plan(number).operation]]
        lines.append(json.dumps({"path": f"{folder.name}/{file.name}", "caption": captions}) + "\n")
    with atomic_write(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def write_clip(clip: Tensor, path: Path) -> None:
    """Write a clip as H.264 in MP4, FPS frames a second.

    Args:
        clip: uint8 (3, T, H, W), H and W even.
        path: the file, of any suffix.

    Raises:
        ImportError: PyAV is missing.
        OSError: the file cannot be written.
    """
    av = require("av")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[2:], "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on any machine
        for frame in clip.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
