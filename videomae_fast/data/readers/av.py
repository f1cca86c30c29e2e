"""Frames through PyAV, which brings a current FFmpeg: the default reader, and the only one that skips packets exactly.

Opening a file reads the packets of its best video stream once, without decoding. Sorted by time, they number the shown
frames. A clip is then decoded from the last key frame at or before each of its frames, with one thread, skipping
packets that no other frame references (H.264 in MP4, Matroska and MOV marks them). The frames are the same, for less
work. Where packets have no times (AVI with B-frames, MPEG program streams), the file is decoded from its start, and
once before to count its frames.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from ..._optional import require
from .base import TimeLimit, VideoError, check_indices, in_order, video_errors
from .container import open_container
from .h264 import is_disposable, nal_length_bytes
from .packets import PacketIndex, PacketInfo

_SEEK_LOOK = 64  # packets that may follow a seek before one is recognised


class AvVideo:
    """`VideoReader` on PyAV. `url` is what FFmpeg opens; `short_side` > 0 scales larger frames down to it.

    `codec` is FFmpeg's name of the codec. `seconds` is the playing time that the file states; 0 if it states none.
    """

    def __init__(self, path: str, url: str, short_side: int = 0) -> None:
        self._av: Any = require("av")
        self.path, self._url, self._short_side = path, url, short_side
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._limit = TimeLimit(path)
        self._container: Any = None
        self._demuxer: Any = None
        try:
            with video_errors(path, "av cannot open it"):
                self._open()
                self._count_frames()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `VideoReader`."""
        # Closed explicitly and in this order: a container and its streams refer to each other, and a generator that
        # outlives its container keeps memory.
        for part in (self._demuxer, self._container):
            if part is not None:
                part.close()
        self._demuxer = self._container = None

    def frames(self, indices: np.ndarray) -> np.ndarray:
        """See `VideoReader`."""
        indices = check_indices(indices, self.num_frames)
        wanted = np.unique(indices).tolist()
        self._limit.restart()
        with video_errors(self.path, "av cannot decode it"):
            images = self._from_key_frames(wanted) if self._index.times else self._from_start(wanted)
            return in_order(self.path, indices, images)

    def _open(self) -> None:
        self.close()
        self._container, self._stream = open_container(self._av, self.path, self._url)
        self._decoder = self._stream.codec_context
        self._demux()
        self._next = 0  # number, in the order of the file, of the packet that comes next

    def _demux(self) -> None:
        if self._demuxer is not None:
            self._demuxer.close()
        self._demuxer = self._limit.over(self._container.demux(self._stream))
        self._ahead: list[Any] = []  # packets taken to see where the demuxer is

    def _count_frames(self) -> None:
        found = [PacketInfo(p.pts, p.dts, p.is_keyframe, p.is_discard) for p in self._demuxer if p.size]
        self.codec, self.seconds = self._stream.codec.canonical_name, (self._container.duration or 0) / 1e6
        self._nal_length_bytes = nal_length_bytes(self.codec, self._decoder.extradata)
        self._next = -1  # nowhere: the packets have been read
        # AVI has decoding times only, and MPEG program streams lack times for some frames. FFmpeg guesses the rest, and
        # guesses wrongly where frames are reordered.
        guessed = self._container.format.name in ("avi", "mpeg") and self._decoder.has_b_frames
        self._index = PacketIndex([] if guessed else found, has_hidden=self.codec == "vp8")
        self.num_frames = len(self._index.times)
        if not self._index.times:
            self._open()
            self.num_frames = sum(1 for _ in self._decoded(self._demuxer))
        if self.num_frames == 0:
            raise VideoError(self.path, "has no frames")

    def _from_start(self, wanted: list[int]) -> dict[int, np.ndarray]:
        self._open()
        images = {}
        for index, frame in zip(range(wanted[-1] + 1), self._decoded(self._demuxer), strict=False):
            if index in wanted:
                images[index] = self._image(frame, index)
        return images

    def _from_key_frames(self, wanted: list[int]) -> dict[int, np.ndarray]:
        groups: dict[int, dict[int, int]] = {}  # key packet -> {time: index} of the frames to decode from there
        for index in wanted:
            time = self._index.times[index]
            groups.setdefault(self._index.key_before(time), {})[time] = index
        images: dict[int, np.ndarray] = {}
        for key, index_at in groups.items():
            # With intra refresh a marked key frame is not decodable alone: start from the beginning instead.
            for start in (key, 0):
                images.update(self._group(start, index_at))
                missing = set(index_at.values()) - images.keys()
                if not missing:
                    break
            else:
                raise VideoError(self.path, f"frame {min(missing)} of {self.num_frames} cannot be decoded")
        return images

    def _group(self, start: int, index_at: dict[int, int]) -> dict[int, np.ndarray]:
        self._decoder.flush_buffers()
        last = self._index.last_of(list(index_at))
        packets = (p for p in self._packets(start, last) if p.pts in index_at or not self._is_disposable(p))
        frames = ((frame, index_at.get(frame.pts)) for frame in self._decoded(chain(packets, [None])))
        return {index: self._image(frame, index) for frame, index in frames if index is not None}

    def _decoded(self, packets: Iterable[Any]) -> Iterator[Any]:
        for packet in packets:
            yield from self._decoder.decode(packet)

    def _is_disposable(self, packet: Any) -> bool:
        return self._nal_length_bytes > 0 and is_disposable(memoryview(packet), self._nal_length_bytes)

    def _packets(self, first: int, last: int) -> Iterator[Any]:
        """The packets numbered first..last."""
        if self._next != first:
            self._seek(first)
        ahead, self._ahead = self._ahead, []
        for packet in chain(ahead, self._demuxer):
            if packet.size:
                self._next += 1
                if self._next > first:
                    yield packet
                if self._next > last:
                    return

    def _seek(self, first: int) -> None:
        """Put the demuxer at packet `first` or at a known packet before it."""
        for time in self._index.times_of(first):
            self._demuxer.close()  # while it is open, the time limit of its last packet runs and would end the seek
            self._container.seek(time, stream=self._stream)
            self._demux()
            for packet, _ in zip(self._demuxer, range(_SEEK_LOOK), strict=False):
                number = self._index.number_of(packet.pts, packet.dts) if packet.size else None
                if number is not None and number <= first:
                    self._next, self._ahead = number, [packet]
                    return
                if number is not None:
                    break
        self._open()  # seeking overshoots in some containers: read on from the start

    def _image(self, frame: Any, index: int) -> np.ndarray:
        if frame.is_corrupt:
            raise VideoError(self.path, f"frame {index} of {self.num_frames} is damaged")
        scale = min(1.0, self._short_side / min(frame.height, frame.width)) if self._short_side else 1.0
        width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)) if frame.rotation else rgb.to_ndarray()
