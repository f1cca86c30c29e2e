"""The frames of a clip in one array, whose size is checked before anything is decoded."""

import numpy as np

from .base import VideoError, check_size

MAX_DECODED_BYTES = 2 << 30  # by default: 16 frames of 8K video do not fit, 80 frames of 4K video do


def check_decoded_bytes(path: str, clip: tuple[int, int, int], frame: tuple[int, int], max_bytes: int) -> None:
    """Check what decoding a clip takes: its frames as RGB, and one frame of the size that the video has.

    Args:
        path: the video's path, for the error.
        clip: (n, height, width), in frames and pixels.
        frame: (height, width) of the video, in pixels, before it is scaled.
        max_bytes: the limit.

    Raises:
        VideoError: the frames take more than `max_bytes`.
    """
    count, height, width = clip
    needed = 3 * (count * height * width + frame[0] * frame[1])
    if needed > max_bytes:
        raise VideoError(
            path,
            f"{count} frames of {width} x {height} pixels, from frames of {frame[1]} x {frame[0]}, take {needed} bytes "
            f"decoded, more than max_decoded_bytes {max_bytes}",
        )


class FrameStack:
    """The frames of a clip. Each is written to its place as it comes, so that no second copy exists.

    Attributes:
        array: uint8 (n, height, width, 3), in the order of the indices; None before the first frame.
        missing: the indices that have not come.
    """

    def __init__(self, path: str, indices: np.ndarray, max_bytes: int) -> None:
        """Expect frames.

        Args:
            path: the video's path, for errors.
            indices: (n,) integers; an index may repeat.
            max_bytes: the limit of `check_decoded_bytes`.
        """
        self._path, self._max_bytes, self._count = path, max_bytes, len(indices)
        self._rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices.tolist()):
            self._rows.setdefault(index, []).append(row)
        self.missing = set(self._rows)
        self.array: np.ndarray | None = None

    def check(self, height: int, width: int, frame: tuple[int, int]) -> None:
        """Check the clip's bytes, as `check_decoded_bytes` does.

        Args:
            height: of the frames in the stack, in pixels.
            width: of the frames in the stack, in pixels.
            frame: (height, width) of the video's frames, in pixels.

        Raises:
            VideoError: the clip takes more than the limit.
        """
        check_decoded_bytes(self._path, (self._count, height, width), frame, self._max_bytes)

    def put(self, index: int, image: np.ndarray) -> None:
        """Write a frame to all its places.

        Args:
            index: one of the indices.
            image: uint8 (height, width, 3).

        Raises:
            VideoError: the image differs in size from the one before.
        """
        if self.array is None:
            self.array = np.empty((self._count, *image.shape), dtype=np.uint8)
        check_size(self._path, image.shape[:2], self.array.shape[1:3])
        for row in self._rows[index]:
            self.array[row] = image
        self.missing.discard(index)

    def whole(self) -> np.ndarray:
        """The array, when every frame has come.

        Returns:
            uint8 (n, height, width, 3), in the order of the indices.

        Raises:
            VideoError: a frame has not come.
        """
        if self.array is None or self.missing:
            raise VideoError(self._path, f"frame {min(self.missing)} cannot be decoded")
        return self.array
