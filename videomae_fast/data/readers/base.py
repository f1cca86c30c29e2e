"""Shared by all readers: the protocol, the error, and the check of indices."""

import re
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Protocol, TypeVar

import numpy as np

from ..._text import printable

TIME_LIMIT = 300.0  # seconds that opening a video, or decoding one list of frames, may take
_Item = TypeVar("_Item")


class VideoError(Exception):
    """A video that cannot be read.

    Attributes:
        path: the video's path; for a member of a tar file, the tar file's path and the member's name.
        reason: why it cannot be read, in one line of printable characters.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, printable(" ".join(reason.split()))
        super().__init__(path, reason)  # both as arguments, so that it survives pickling

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


class VideoReader(Protocol):
    """Random access to the frames of one open video.

    Index n is the n-th frame that a player shows, with rotation applied. A reader belongs to the process that opened
    it. Close it after use.
    """

    @property
    def num_frames(self) -> int:
        """The number of frames that a player shows."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second, on average, as the file states; 0 if it does not."""
        ...

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """Decode frames.

        Args:
            indices: (n,) integers in [0, num_frames), in any order; an index may repeat.

        Returns:
            The frames in the order of `indices`: uint8 RGB (n, height, width, 3).

        Raises:
            ValueError: `indices` is empty or out of range.
            VideoError: a frame cannot be decoded, or frames differ in size.
        """
        ...

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Decode frames one after the other, from the start of the video on, each once; only one is held at a time.

        The time limit of a call holds for each frame. Calls of `frames` in between would put the decoder elsewhere.

        Args:
            indices: (n,) integers in [0, num_frames), ascending.

        Returns:
            An iterator over the frames: uint8 RGB (height, width, 3).

        Raises:
            ValueError: `indices` is empty, out of range or not ascending.
            VideoError: a frame cannot be decoded, or frames differ in size.
        """
        ...

    def close(self) -> None:
        """Free the decoder. A second call does nothing."""
        ...


def check_indices(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """Check the indices that a reader is given.

    Args:
        indices: (n,) integers.
        num_frames: frames of the video.

    Returns:
        `indices` as int64.

    Raises:
        ValueError: `indices` is no list, is empty, or is out of [0, num_frames).
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or indices.size == 0 or indices.min() < 0 or indices.max() >= num_frames:
        raise ValueError(f"indices must be a non-empty list of frames in [0, {num_frames}), got {indices}")
    return indices


def check_ascending(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """Check the indices of frames that are to come one after the other.

    Args:
        indices: (n,) integers.
        num_frames: frames of the video.

    Returns:
        `indices` as int64.

    Raises:
        ValueError: as `check_indices`; also if an index is not larger than the one before it.
    """
    indices = check_indices(indices, num_frames)
    if np.any(np.diff(indices) <= 0):
        raise ValueError(f"indices must be ascending, got {indices}")
    return indices


def check_size(path: str, size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Make sure that a frame has the size of the ones before.

    Args:
        path: the video's path, for the error.
        size: (height, width) of the frame, in pixels.
        expected: of the ones before.

    Raises:
        VideoError: they differ.
    """
    if size != expected:
        raise VideoError(path, f"frames of several sizes: {sorted({size, expected})}")


def of_one_size(path: str, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass the frames of a stream on while they have one size.

    Args:
        path: the video's path, for the error.
        frames: uint8 (height, width, 3).

    Returns:
        An iterator over the same frames.

    Raises:
        VideoError: a frame differs in size from the first.
    """
    expected = None
    for frame in frames:
        expected = expected or frame.shape[:2]
        check_size(path, frame.shape[:2], expected)
        yield frame


def stream_singly(video: VideoReader, path: str, indices: np.ndarray) -> Iterator[np.ndarray]:
    """`VideoReader.stream` of a reader that goes on from the last frame it decoded.

    Args:
        video: the reader.
        path: of the video, for errors.
        indices: as `VideoReader.stream` takes them.

    Returns:
        An iterator over the frames.
    """
    numbers = check_ascending(indices, video.num_frames)
    yield from of_one_size(path, (video.frames(index[None])[0] for index in numbers))


class TimeLimit:
    """Ends a loop over a video's packets or frames after TIME_LIMIT.

    It looks at the clock between the items: it does not end a call into a decoder that hangs.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.restart()

    def restart(self) -> None:
        """Begin a call: its time counts from now."""
        self._start = time.monotonic()

    def over(self, items: Generator[_Item, None, None]) -> Generator[_Item, None, None]:
        """Pass items on while there is time.

        Args:
            items: what is read; it is closed when the result is.

        Yields:
            The items.

        Raises:
            VideoError: TIME_LIMIT has passed since the last `restart`.
        """
        with closing(items):  # PyAV's generator loses memory if it is only forgotten
            for item in items:
                if time.monotonic() - self._start > TIME_LIMIT:
                    raise VideoError(self._path, f"takes more than {TIME_LIMIT:g} s to read")
                yield item


@contextmanager
def video_errors(path: str, action: str) -> Iterator[None]:
    """Turn whatever goes wrong with a video into its VideoError.

    A file from a stranger can make a reader raise anything: UnicodeDecodeError for its metadata, AttributeError for
    a stream that has no decoder, MemoryError. All of it means that this video cannot be read.

    Args:
        path: the video's path.
        action: what failed, as in "av cannot open it".

    Raises:
        VideoError: any exception came, but for the next one.
        ImportError: the reader's package is missing, which is no fault of the video.
    """
    try:
        yield
    except (VideoError, ImportError):
        raise
    except Exception as error:
        raise VideoError(path, f"{action} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, so that equal causes read the same.

    Later lines hold a C++ stack. decord begins the first line with the time and a place in its source, which is cut
    off. Errors of the system and of FFmpeg repeat the path, so of these only the cause is taken.

    Args:
        error: any exception.

    Returns:
        One line; the name of the exception if it has no message.
    """
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return re.sub(r"^\[[\d:]+\] \S+: ", "", lines[0]) if lines else type(error).__name__
