"""The sound of videos: the spectrogram of a part of one, as an audio tower reads it."""

from .clip import SoundClip, sound_clip
from .log_mel import SAMPLE_RATE, log_mel

__all__ = ["SAMPLE_RATE", "SoundClip", "log_mel", "sound_clip"]
