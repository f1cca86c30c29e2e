"""Clips that were made from known changes, as video files with captions: what any list of captions may hold."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ..._files import atomic_write
from ..._optional import require

FPS = 8  # frames a second
LIST = "captions.tsv"  # beside the videos
_OPTIONS = {"preset": "ultrafast", "crf": "12"}  # fine: a tint or a shift of a few pixels must survive


def write_captioned_clips(clips: Iterable[tuple[Tensor, Sequence[str]]], folder: Path) -> Path:
    """Write clips as H.264 in MP4, and a list of their captions that `read_captions` reads.

    Each file is complete or absent at every moment, and the list is written last. Files of the same names are replaced.

    Args:
        clips: of each clip the pixels, uint8 (3, T, height, width) of even sides, and its captions, as many of each.
        folder: for captions.tsv and the videos 00000.mp4, 00001.mp4, …; it is made if it does not exist.

    Returns:
        The path of the list.

    Raises:
        ImportError: PyAV is missing.
        ValueError: there is no clip, a side is odd, or clips have different numbers of captions.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    for number, (clip, captions) in enumerate(clips):
        if clip.shape[2] % 2 or clip.shape[3] % 2:
            raise ValueError(f"clip {number} must have even sides for H.264, got {tuple(clip.shape[2:])}")
        name = f"{number:05}.mp4"
        with atomic_write(folder / name) as partial:
            _write_video(clip, partial)
        rows.append((name, *captions))
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"clip {number} must have {len(rows[0]) - 1} captions, as clip 0, got {len(captions)}")
    if not rows:
        raise ValueError("clips must not be empty")
    path = folder / LIST
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerows([("path", *["caption"] * (len(rows[0]) - 1)), *rows])
    return path


def _write_video(clip: Tensor, path: Path) -> None:
    av = require("av")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_OPTIONS)
        stream.height, stream.width = clip.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on any machine
        for frame in clip.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
