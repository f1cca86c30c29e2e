"""Frames through torchcodec's CPU decoder, in exact mode: approximate mode misnumbers VFR and Matroska files."""

from collections.abc import Iterator

import numpy as np

from ..._optional import require
from .base import VideoError, check_indices, stream_singly, video_errors
from .frame_stack import MAX_DECODED_BYTES, check_decoded_bytes


class TorchcodecVideo:
    """`VideoReader` on torchcodec with one thread."""

    def __init__(self, path: str, url: str, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
        decoders = require("torchcodec.decoders")
        self.path, self._max_decoded_bytes = path, max_decoded_bytes
        with video_errors(path, "torchcodec cannot open it"):
            self._video = decoders.VideoDecoder(url, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            self.num_frames = len(self._video)
            self.fps = float(self._video.metadata.average_fps or 0)
        if self.num_frames == 0:
            raise VideoError(path, "has no frames")

    def close(self) -> None:
        """See `VideoReader`."""
        self._video = None

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """See `VideoReader`."""
        return stream_singly(self, self.path, indices)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        with video_errors(self.path, "torchcodec cannot decode it"):
            size = self._video.metadata.height or 0, self._video.metadata.width or 0
            check_decoded_bytes(self.path, (len(indices), *size), size, self._max_decoded_bytes)
            return self._video.get_frames_at(indices.tolist()).data.numpy()
