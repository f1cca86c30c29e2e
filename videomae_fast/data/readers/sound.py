"""Sound through PyAV: some seconds of a video's best audio stream, in one channel, at a given rate.

Samples are placed by the times of the file, counted from the first time of its video, so that sound and frames belong
together. Between packets, times are only as exact as the container stores them (a millisecond in Matroska), so samples
follow each other without a gap unless the times differ by more than GAP.
"""

from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np

from ..._optional import require
from ..sources.annotations import FrameFolder, VideoEntry
from .base import TimeLimit, video_errors
from .container import open_sound
from .registry import locate

GAP = 0.1  # seconds
_LEAD = 0.2  # seconds decoded before the first sample, because codecs and the resampler begin with silence


class SoundReader:
    """The sound of one open video.

    Args:
        entry: a video file, a member of a tar file, or a folder of frames, which has no sound.
        sample_rate: samples per second of what is read.

    Attributes:
        heard: whether the video has an audio stream.
        seconds: the playing time that the file states; 0 if it states none.

    Raises:
        ImportError: PyAV is missing.
        VideoError: the file cannot be opened, or its sound has no decoder.
    """

    def __init__(self, entry: VideoEntry, sample_rate: int) -> None:
        self._av: Any = require("av")
        self.name, self._rate, self.heard, self.seconds = entry.name, sample_rate, False, 0.0
        self._container: Any = None
        self._stream: Any = None
        if not isinstance(entry, FrameFolder):
            self._url = locate(entry)[1]
            self._open()

    def close(self) -> None:
        """Free the decoder. A second call does nothing."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = None

    def read(self, start: float, seconds: float) -> np.ndarray:
        """Decode a part of the sound.

        Args:
            start: seconds of the video at which it begins, at least 0.
            seconds: of the part, positive.

        Returns:
            (n,) float32 samples in [−1, 1], the mean of the channels, n ≤ seconds · sample_rate: less where the sound
            ends earlier, 0 without sound. Where it has a gap, samples are 0.

        Raises:
            VideoError: the sound is damaged.
        """
        count = round(seconds * self._rate)
        samples, end = np.zeros(count, dtype=np.float32), 0
        place: int | None = None
        if not self.heard:
            return samples[:0]
        with video_errors(self.name, "av cannot decode its sound"), closing(self._chunks(start)) as chunks:
            for time, chunk in chunks:
                follows = 0 if place is None else place
                at = follows if time is None else round((time - start) * self._rate)
                place = at if place is None or abs(at - follows) > GAP * self._rate else follows
                first, last = max(place, 0), min(place + len(chunk), count)
                if first < last:
                    samples[first:last] = chunk[first - place : last - place]
                    end = max(end, last)
                place += len(chunk)
                if place >= count:
                    break
        return samples[:end]

    def _open(self) -> None:
        self.close()
        self._container, self._stream = open_sound(self._av, self.name, self._url)
        self.heard = self._stream is not None
        self.seconds = (self._container.duration or 0) / 1e6
        video = self._container.streams.best("video")
        self._origin = float(video.start_time * video.time_base) if video is not None and video.start_time else 0.0

    def _chunks(self, start: float) -> Generator[tuple[float | None, np.ndarray], None, None]:
        """Samples (n,) with the time of the first one, from `start` or before on."""
        if start > _LEAD and self._seek(start - _LEAD):
            with closing(self._decoded()) as chunks:
                first = next(chunks, None)
                if first is not None and first[0] is not None and first[0] <= start:
                    yield first
                    yield from chunks
                    return
        self._open()  # from the start, too, where a container cannot seek, or goes too far
        yield from self._decoded()

    def _seek(self, time: float) -> bool:
        offset = round((time + self._origin) / self._stream.time_base)
        try:
            self._container.seek(offset, stream=self._stream)
        except self._av.FFmpegError:
            return False
        return True

    def _decoded(self) -> Generator[tuple[float | None, np.ndarray], None, None]:
        resampler = self._av.AudioResampler(format="fltp", rate=self._rate)
        packets = TimeLimit(self.name).over(self._container.demux(self._stream))
        with closing(packets):
            frames = (frame for packet in packets for frame in packet.decode())
            for frame in frames:
                for part in resampler.resample(frame):
                    yield _timed(part, self._origin)
            for part in resampler.resample(None):
                yield _timed(part, self._origin)


def _timed(frame: Any, origin: float) -> tuple[float | None, np.ndarray]:
    time = None if frame.pts is None else float(frame.pts * frame.time_base) - origin
    return time, frame.to_ndarray().mean(0)
