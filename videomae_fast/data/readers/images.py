"""Folders of frames: a video stored as one image per frame."""

import os
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from ..._optional import require
from .base import TimeLimit, VideoError, check_indices, stream_singly, video_errors
from .frame_stack import MAX_DECODED_BYTES, FrameStack
from .local_file import file_size
from .packets import MAX_PACKETS

IMAGE_TEMPLATE = "img_{:05}.jpg"  # the published --fname_tmpl
# Pillow looks at a file's first bytes, not at its name, and has formats that run other programs (EPS: Ghostscript).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "TGA")


class ImageFolder:
    """`VideoReader` on a folder of images: frame n is `template.format(n + start)`."""

    def __init__(
        self,
        path: str,
        start: int,
        num_frames: int,
        template: str = IMAGE_TEMPLATE,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        self.path, self.start, self.num_frames, self.template = path, start, num_frames, template
        self._max_decoded_bytes = max_decoded_bytes
        self.fps = 0.0
        if num_frames > MAX_PACKETS:  # a number in a list, which nothing else holds down
            raise VideoError(path, f"is said to have {num_frames} images, more than {MAX_PACKETS}")
        if not os.path.isdir(path):
            raise VideoError(path, "no such folder of frames")

    def close(self) -> None:
        """Nothing is open between calls."""

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """See `VideoReader`."""
        return stream_singly(self, indices)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        stack = FrameStack(self.path, indices, self._max_decoded_bytes)
        numbers = (index for index in np.unique(indices).tolist())
        with warnings.catch_warnings(), video_errors(self.path, "cannot be read"):
            images = require("PIL.Image")
            warnings.simplefilter("ignore")  # of what an image is made of, for every frame
            warnings.simplefilter("error", images.DecompressionBombWarning)
            for index in TimeLimit(self.path).over(numbers):
                stack.put(index, self._image(images, index, stack))
            return stack.whole()

    def _image(self, images: Any, index: int, stack: FrameStack) -> np.ndarray:
        name = self.template.format(index + self.start)
        path = os.path.join(self.path, name)
        try:
            file_size(path, name)
        except VideoError as error:
            reason = "no such frame" if isinstance(error.__cause__, FileNotFoundError) else error.reason
            raise VideoError(self.path, f"{name}: {reason}") from error
        with video_errors(self.path, f"{name}: cannot be read"), images.open(path, formats=_formats(images)) as file:
            stack.check(file.height, file.width, (file.height, file.width))  # known before it is decoded
            return np.asarray(file.convert("RGB"))


@cache
def _formats(images: Any) -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow can read."""
    images.init()
    return tuple(name for name in _FORMATS if name in images.OPEN)
