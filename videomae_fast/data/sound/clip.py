"""The spectrogram of one captioned video: ten seconds of its part, or as much as there is."""

import math
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from ..readers.sound import SoundReader
from ..seeding import sound_rng
from ..sources.captioned import CaptionedEntry
from .log_mel import HOP, SAMPLE_RATE, WINDOW, log_mel

SECONDS = 10.0  # of sound that a sample has at most, as published
NUM_WINDOWS = 1 + (int(SECONDS * SAMPLE_RATE) - WINDOW) // HOP  # 998
NUM_MELS = 64


class SoundClip(NamedTuple):
    """The sound of a sample.

    Attributes:
        spectrogram: (998, 64) float32, as `log_mel` makes it, then rows of zeros where there is no sound.
        silent: whether the part of the video has no sound at all, so that all rows are zeros. Recorded silence is
            sound: its rows are about −2.4.
    """

    spectrogram: Tensor
    silent: bool


def sound_clip(entry: CaptionedEntry, seed: int, sample_number: int) -> SoundClip:
    """The sound between the start and the end of an entry; of more than ten seconds, ten that are drawn.

    A file that does not state its duration has the first ten.

    Args:
        entry: a video; a folder of frames has no sound.
        seed: in [0, 2**64).
        sample_number: in [0, 2**64); with the seed it decides what is drawn.

    Returns:
        The spectrogram. A video without an audio stream, and a part without a window of sound, has zeros, as published.

    Raises:
        VideoError: the file cannot be opened, or it has sound that cannot be decoded.
        ImportError: PyAV is missing.

    References:
        `load_audio_av`, multi_modality/dataset/av_utils.py, and `zero_audio_padding_for_video`, dataset/pt_dataset.py
        of OpenGVLab/InternVideo. There the sound ends, without a word, where it cannot be decoded.
    """
    with closing(SoundReader(entry.video, SAMPLE_RATE)) as sound:
        end = min(entry.end, sound.seconds or math.inf)
        spare = end - entry.start - SECONDS
        drawn = float(sound_rng(seed, sample_number).uniform(0, spare)) if 0 < spare < math.inf else 0.0
        samples = sound.read(entry.start + drawn, min(SECONDS, max(end - entry.start, 0)))
    found = log_mel(torch.from_numpy(samples), SAMPLE_RATE, NUM_MELS)
    spectrogram = torch.zeros(NUM_WINDOWS, NUM_MELS)
    spectrogram[: len(found)] = found
    return SoundClip(spectrogram, silent=len(found) == 0)
