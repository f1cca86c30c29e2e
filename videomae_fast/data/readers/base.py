"""What every reader has in common: the protocol, the error, and the check of indices."""

from typing import Protocol

import numpy as np


class VideoError(Exception):
    """A video that cannot be read: `path` and a one-line `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        super().__init__(path, reason)  # both as arguments, so that it survives pickling

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoReader(Protocol):
    """`num_frames`, and `frames(indices)` -> uint8 RGB (len(indices), height, width, 3) for any order of indices.

    Index n is the n-th frame that is shown. A reader belongs to the process that opened it; `close` it after use.
    """

    @property
    def num_frames(self) -> int: ...

    def frames(self, indices: np.ndarray) -> np.ndarray: ...

    def close(self) -> None: ...


def check_indices(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """`indices` as int64; ValueError unless they are a non-empty list within [0, num_frames)."""
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or indices.size == 0 or indices.min() < 0 or indices.max() >= num_frames:
        raise ValueError(f"indices must be a non-empty list of frames in [0, {num_frames}), got {indices}")
    return indices


def in_order(path: str, indices: np.ndarray, images: dict[int, np.ndarray]) -> np.ndarray:
    """The images (H, W, 3) of `indices` as one array; `VideoError` if their sizes differ."""
    shapes = {image.shape[:2] for image in images.values()}
    if len(shapes) > 1:
        raise VideoError(path, f"frames of several sizes: {sorted(shapes)}")
    return np.stack([images[index] for index in indices.tolist()])
