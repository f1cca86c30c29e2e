"""Videos with sound, made for the tests."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np


def write_sound_video(
    path: Path,
    samples: np.ndarray | None,
    rate: int = 16000,
    seconds: float = 2.0,
    codec: str = "pcm_s16le",
    starts: float = 0.0,
    damage: Callable[[int, bytes], bytes] | None = None,
) -> Path:
    """A video of grey frames, 10 a second, with `samples` (channels, n) in [−1, 1] as its sound; None: without sound.

    `starts` seconds of the video pass before the sound does. `damage` replaces the bytes of each packet of sound.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt, video.thread_count = 32, 32, "yuv420p", 1
        audio = None
        if samples is not None:
            audio = container.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo"}[len(samples)])
        for number in range(round(10 * seconds)):
            image = np.full((32, 32, 3), 20 + number % 200, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(video.encode())
        if audio is not None:
            _write_sound(container, audio, np.asarray(samples, dtype=np.float32), rate, starts, damage)
    return path


def _write_sound(container, audio, samples, rate, starts, damage) -> None:  # type: ignore[no-untyped-def]
    number = 0
    size = audio.codec_context.frame_size or 1024
    frames = []
    for first in range(0, samples.shape[1], size):
        planes = np.ascontiguousarray(samples[:, first : first + size])
        frame = av.AudioFrame.from_ndarray(planes, "fltp", layout=audio.codec_context.layout.name)
        frame.sample_rate, frame.pts = rate, first + round(starts * rate)
        frames.append(frame)
    resampler = av.AudioResampler(audio.codec_context.format.name, audio.codec_context.layout.name, rate)
    fitting = [part for frame in (*frames, None) for part in resampler.resample(frame)]
    for part in (*fitting, None):
        for packet in audio.encode(part):
            if damage is not None and packet.size:
                broken = av.Packet(damage(number, bytes(packet)))
                broken.stream, broken.pts, broken.dts = audio, packet.pts, packet.dts
                broken.time_base = packet.time_base
                packet = broken
            number += 1
            container.mux(packet)


def clicks(times: list[float], seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """(channels, n): silence with clicks of one millisecond at some times."""
    samples = np.zeros((channels, round(seconds * rate)), dtype=np.float32)
    for time in times:
        samples[:, round(time * rate) : round((time + 1e-3) * rate)] = 0.5
    return samples
