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
from .base import TimeLimit, VideoError, video_errors
from .container import open_sound
from .registry import locate

GAP = 0.1  # seconds
MIN_RATE = 1000  # samples per second of a file: of fewer, the resampler would make a packet a flood
MAX_CHANNELS = 64
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
            (n,) float32 samples in [−1, 1], the mean of the channels, each limited to this range. n ≤ seconds ·
            sample_rate: less where the sound ends earlier, 0 without sound. Where it has a gap, samples are 0.

        Raises:
            VideoError: the sound is damaged, has samples that are NaN or infinite, fewer than MIN_RATE samples per
                second, or more than MAX_CHANNELS channels.
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
        try:
            with video_errors(self.name, "av cannot tell its times"):
                self.heard = self._stream is not None
                self.seconds = (self._container.duration or 0) / 1e6
                self._origin = _first_time(self._container.streams.best("video"))
        except BaseException:
            self.close()
            raise

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
        # Not in planes, "fltp": of more than eight, PyAV reads past the end.
        resampler = self._av.AudioResampler(format="flt", rate=self._rate)
        packets = TimeLimit(self.name).over(self._container.demux(self._stream))
        with closing(packets):
            frames = (frame for packet in packets for frame in packet.decode())
            for frame in frames:
                self._check(frame)
                for part in resampler.resample(frame):
                    yield self._timed(part)
            for part in resampler.resample(None):
                yield self._timed(part)

    def _check(self, frame: Any) -> None:
        """Of each frame, because headers may lie."""
        if frame.sample_rate < MIN_RATE:
            raise VideoError(self.name, f"its sound must have at least {MIN_RATE} Hz, got {frame.sample_rate}")
        if (channels := frame.layout.nb_channels) > MAX_CHANNELS:
            raise VideoError(self.name, f"its sound must have at most {MAX_CHANNELS} channels, got {channels}")

    def _timed(self, frame: Any) -> tuple[float | None, np.ndarray]:
        time = None if frame.pts is None else float(frame.pts * frame.time_base) - self._origin
        samples = frame.to_ndarray().reshape(frame.samples, frame.layout.nb_channels)
        if not np.isfinite(samples).all():
            raise VideoError(self.name, "its sound has samples that are NaN or infinite")
        return time, samples.clip(-1, 1).mean(1)


def _first_time(video: Any) -> float:
    return float(video.start_time * video.time_base) if video is not None and video.start_time else 0.0
