"""Random access to the frames of a video: one protocol, several decoders.

docs/readers.md says what each reader can do and how long it takes.
"""

from .av import AvVideo
from .base import VideoError, VideoReader
from .decord import DecordVideo
from .frame_stack import MAX_DECODED_BYTES
from .images import IMAGE_TEMPLATE, ImageFolder
from .registry import DEFAULT_READER, READERS, check_reader, locate, open_captioned, open_entry, open_video
from .torchcodec import TorchcodecVideo

__all__ = [
    "DEFAULT_READER",
    "IMAGE_TEMPLATE",
    "MAX_DECODED_BYTES",
    "READERS",
    "AvVideo",
    "DecordVideo",
    "ImageFolder",
    "TorchcodecVideo",
    "VideoError",
    "VideoReader",
    "check_reader",
    "locate",
    "open_captioned",
    "open_entry",
    "open_video",
]
