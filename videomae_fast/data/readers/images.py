"""Images: folders of frames, which are videos stored as one image per frame, and images that are clips of one frame."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np

from ..._optional import require
from ..sources.annotations import TarMember, VideoFile
from .base import TimeLimit, VideoError, check_indices, stream_singly, video_errors
from .frame_stack import MAX_DECODED_BYTES, FrameStack
from .local_file import check_size, file_size
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
        return stream_singly(self, self.path, indices)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        stack = FrameStack(self.path, indices, self._max_decoded_bytes)
        numbers = (index for index in np.unique(indices).tolist())
        with _strictly(self.path) as images:
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
        with video_errors(self.path, f"{name}: cannot be read"):
            return _decoded(images, path, stack)


class ImageFile:
    """`VideoReader` on one image, in a file of its own or in a tar file: a video of one frame."""

    def __init__(self, entry: VideoFile | TarMember, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
        self.path, self.num_frames, self.fps = entry.name, 1, 0.0
        self._entry, self._max_decoded_bytes = entry, max_decoded_bytes
        check_size(entry)

    def close(self) -> None:
        """Nothing is open between calls."""

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """See `VideoReader`."""
        return stream_singly(self, self.path, indices)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        stack = FrameStack(self.path, check_indices(indices, 1), self._max_decoded_bytes)
        with _strictly(self.path) as images:
            stack.put(0, _decoded(images, self._source(), stack))
            return stack.whole()

    def _source(self) -> str | BytesIO:
        if isinstance(self._entry, VideoFile):
            return self._entry.path
        with open(self._entry.path, "rb") as file:
            file.seek(self._entry.start)
            return BytesIO(file.read(self._entry.size))


@contextmanager
def _strictly(path: str) -> Iterator[Any]:
    """Pillow's module; an image that is too large is an error, and whatever goes wrong is one of the video."""
    with warnings.catch_warnings(), video_errors(path, "cannot be read"):
        images = require("PIL.Image")
        warnings.simplefilter("ignore")  # of what an image is made of, for every frame
        warnings.simplefilter("error", images.DecompressionBombWarning)
        yield images


def _decoded(images: Any, source: str | BytesIO, stack: FrameStack) -> np.ndarray:
    with images.open(source, formats=_formats(images)) as file:
        stack.check(file.height, file.width, (file.height, file.width))  # known before it is decoded
        return np.asarray(file.convert("RGB"))


@cache
def _formats(images: Any) -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow can read."""
    images.init()
    return tuple(name for name in _FORMATS if name in images.OPEN)
