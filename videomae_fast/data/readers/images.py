"""Folders of frames: a video stored as one image per frame."""

import os

import numpy as np

from ..._optional import require
from .base import VideoError, check_indices, first_line, in_order

IMAGE_TEMPLATE = "img_{:05}.jpg"  # the published --fname_tmpl


class ImageFolder:
    """`VideoReader` on a folder of images: frame n is `template.format(n + start)`."""

    def __init__(self, path: str, start: int, num_frames: int, template: str = IMAGE_TEMPLATE) -> None:
        self.path, self.start, self.num_frames, self.template = path, start, num_frames, template
        if not os.path.isdir(path):
            raise VideoError(path, "no such folder of frames")

    def close(self) -> None:
        """Nothing is open between calls."""

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        return in_order(self.path, indices, {index: self._image(index) for index in np.unique(indices).tolist()})

    def _image(self, index: int) -> np.ndarray:
        name = self.template.format(index + self.start)
        try:
            with require("PIL.Image").open(os.path.join(self.path, name)) as file:
                return np.asarray(file.convert("RGB"))
        except ImportError:
            raise
        except Exception as error:
            reason = "no such frame" if isinstance(error, FileNotFoundError) else first_line(error)
            raise VideoError(self.path, f"{name}: {reason}") from error
