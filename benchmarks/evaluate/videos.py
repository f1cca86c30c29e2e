"""An open video that counts the frames that are asked of it, for published code that indexes arrays of frames."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from videomae_fast.data import DEFAULT_READER, Mixture
from videomae_fast.data.readers import VideoReader, open_entry


class CountedVideo:
    """`video[[0, 4, 8]]` are frames, (3, height, width, 3) uint8."""

    def __init__(self, reader: VideoReader) -> None:
        self.reader, self.frames_read = reader, 0

    def __len__(self) -> int:
        return self.reader.num_frames

    def __getitem__(self, numbers: list[int]) -> np.ndarray:
        self.frames_read += len(numbers)
        return self.reader.frames(np.array(numbers))

    @property
    def num_frames(self) -> int:
        """As a VideoReader has it."""
        return len(self)

    @property
    def fps(self) -> float:
        """As a VideoReader has it."""
        return self.reader.fps

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """As a VideoReader does."""
        for frame in self.reader.stream(indices):
            self.frames_read += 1
            yield frame

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """As a VideoReader does."""
        return self[indices.tolist()]

    def close(self) -> None:
        """As a VideoReader does."""
        self.reader.close()


@contextmanager
def opened(videos: Mixture, index: int) -> Iterator[CountedVideo]:
    """A video of a list, with the default reader."""
    reader = open_entry(videos[index], DEFAULT_READER, template=videos.source(index).template)
    with closing(CountedVideo(reader)) as video:
        yield video
