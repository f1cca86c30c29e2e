"""The sound of videos: the spectrogram of a part of one, as an audio tower reads it."""

from .log_mel import SAMPLE_RATE, log_mel

__all__ = ["SAMPLE_RATE", "log_mel"]
