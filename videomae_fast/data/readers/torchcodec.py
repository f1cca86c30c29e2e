"""Frames through torchcodec's CPU decoder, in exact mode: approximate mode misnumbers VFR and Matroska files."""

import numpy as np

from ..._optional import require
from .base import VideoError, check_indices, video_errors


class TorchcodecVideo:
    """`VideoReader` on torchcodec with one thread."""

    def __init__(self, path: str, url: str) -> None:
        decoders = require("torchcodec.decoders")
        self.path = path
        with video_errors(path, "torchcodec cannot open it"):
            self._video = decoders.VideoDecoder(url, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            self.num_frames = len(self._video)
        if self.num_frames == 0:
            raise VideoError(path, "has no frames")

    def close(self) -> None:
        """See `VideoReader`."""
        self._video = None

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        with video_errors(self.path, "torchcodec cannot decode it"):
            return self._video.get_frames_at(indices.tolist()).data.numpy()
