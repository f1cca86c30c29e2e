"""Frames through PyAV, which brings a current FFmpeg: the default reader, and the only one that skips packets exactly.

Opening a file reads the packets of its best video stream once, without decoding. Sorted by time, they number the shown
frames. A clip is then decoded from the last key frame at or before each of its frames, with one thread, skipping
packets that no other frame references (H.264 in MP4, Matroska and MOV marks them). The frames are the same, for less
work. Where packets have no times to sort by (AVI and ASF with B-frames, MPEG program streams), the file is decoded
from its start, and once before to count its frames.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np

from ..._optional import require
from .base import TimeLimit, VideoError, check_ascending, check_indices, of_one_size, video_errors
from .container import open_container
from .frame_stack import MAX_DECODED_BYTES, FrameStack, check_decoded_bytes
from .h264 import is_disposable, nal_length_bytes
from .packets import MAX_PACKETS, PacketIndex, PacketInfo

_SEEK_LOOK = 64  # packets that may follow a seek before one is recognised


class AvVideo:
    """`VideoReader` on PyAV. `url` is what FFmpeg opens; `short_side` > 0 scales larger frames down to it.

    `max_decoded_bytes` is the limit of `check_decoded_bytes`, and holds the decoder itself to frames of that size.
    `codec` is FFmpeg's name of the codec. `seconds` is the playing time that the file states; 0 if it states none.
    """

    def __init__(self, path: str, url: str, short_side: int = 0, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
        self._av: Any = require("av")
        self.path, self._url, self._short_side = path, url, short_side
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._limit, self._max_decoded_bytes = TimeLimit(path), max_decoded_bytes
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
        stack = FrameStack(self.path, indices, self._max_decoded_bytes)
        stack.check(*self._scaled(self._decoder), (self._decoder.height, self._decoder.width))
        self._limit.restart()
        with video_errors(self.path, "av cannot decode it"):
            if self._index.times:
                self._from_key_frames(stack)
            else:
                self._from_start(stack)
            return stack.whole()

    def stream(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """See `VideoReader`."""
        yield from of_one_size(self.path, self._singly(check_ascending(indices, self.num_frames)))

    def _singly(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        self._limit.restart()
        with video_errors(self.path, "av cannot decode it"):
            frames = self._shown(indices)
            for index in indices.tolist():
                frame = next((frame for number, frame in frames if number == index), None)
                if frame is None:
                    raise VideoError(self.path, f"frame {index} cannot be decoded")
                yield self._image(frame, index, FrameStack(self.path, np.array([index]), self._max_decoded_bytes))
                self._limit.restart()

    def _shown(self, indices: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Frames with their indices, in ascending order, at least those of `indices`; decoded from the start on."""
        if not self._index.times:
            self._open()
            yield from enumerate(self._decoded(self._demuxer))
            return
        self._decoder.flush_buffers()
        index_at = {self._index.times[index]: index for index in indices.tolist()}
        packets = self._packets(0, self._index.last_of(list(index_at)))
        needed = (p for p in packets if p.pts in index_at or not self._is_disposable(p))
        for frame in self._decoded(chain(needed, [None])):
            if frame.pts in index_at:
                yield index_at[frame.pts], frame

    def _open(self) -> None:
        self.close()
        self._container, self._stream = open_container(self._av, self.path, self._url, stored_times=True)
        self._decoder = self._stream.codec_context
        size = self._decoder.height, self._decoder.width
        check_decoded_bytes(self.path, (0, *size), size, self._max_decoded_bytes)
        self._decoder.options = {"max_pixels": str(max(1, self._max_decoded_bytes // 3))}  # headers may lie
        self._demux()
        self._next = 0  # number, in the order of the file, of the packet that comes next

    def _demux(self) -> None:
        if self._demuxer is not None:
            self._demuxer.close()
        packets = self._limit.over(self._container.demux(self._stream))
        # Without reordering and without hidden frames, decoding times tell the order of the shown frames.
        ordered = not self._decoder.has_b_frames and self._stream.codec.canonical_name != "vp8"
        self._demuxer = _with_decoding_times(packets) if ordered else packets
        self._ahead: list[Any] = []  # packets taken to see where the demuxer is

    def _count_frames(self) -> None:
        self.codec = self._stream.codec.canonical_name
        self._nal_length_bytes = nal_length_bytes(self.codec, self._decoder.extradata)
        self._index = PacketIndex(self._packet_infos(), has_hidden=self.codec == "vp8")
        self.seconds = (self._container.duration or 0) / 1e6
        self.fps = float(self._stream.average_rate or 0)
        self.num_frames = len(self._index.times)
        if not self._index.times or (self._index.in_file_order and self._decoder.has_b_frames):
            self._open()
            shown = [frame.pts for frame in self._decoded(self._demuxer)]
            if shown != self._index.times:
                self._index = PacketIndex([], has_hidden=False)
            self.num_frames = len(shown)
        self._next = -1  # nowhere: the packets have been read
        if self.num_frames == 0:
            raise VideoError(self.path, "has no frames")

    def _packet_infos(self) -> list[PacketInfo]:
        """All packets; none if they cannot be decoded from a key frame on."""
        carries = self._decoder.pix_fmt == "pal8"  # only the packet where it changes has the palette
        found = []
        for packet in islice(self._demuxer, MAX_PACKETS):
            if packet.size:
                found.append(PacketInfo(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
                carries = carries or (packet.is_keyframe and packet.has_sidedata("new_extradata"))
        if next(self._demuxer, None) is not None:
            raise VideoError(self.path, f"has more than {MAX_PACKETS} packets")
        return [] if carries else found

    def _from_start(self, stack: FrameStack) -> None:
        self._open()
        last = max(stack.missing)
        for index, frame in zip(range(last + 1), self._decoded(self._demuxer), strict=False):
            if index in stack.missing:
                stack.put(index, self._image(frame, index, stack))

    def _from_key_frames(self, stack: FrameStack) -> None:
        groups: dict[int, dict[int, int]] = {}  # key packet -> {time: index} of the frames to decode from there
        for index in sorted(stack.missing):
            time = self._index.times[index]
            groups.setdefault(self._index.key_before(time), {})[time] = index
        for key, index_at in groups.items():
            self._group(stack, key, index_at)
            if not stack.missing.isdisjoint(index_at.values()):
                break  # with intra refresh a marked key frame is not decodable alone
        if stack.missing:
            self._group(stack, 0, {self._index.times[index]: index for index in stack.missing})

    def _group(self, stack: FrameStack, start: int, index_at: dict[int, int]) -> None:
        self._decoder.flush_buffers()
        last, first_time = self._index.last_of(list(index_at)), self._index.time_of(start)
        packets = (p for p in self._packets(start, last) if p.pts in index_at or not self._is_disposable(p))
        for frame in self._decoded(chain(packets, [None])):
            if start and frame.pts == first_time and not frame.key_frame:
                stack.missing.update(index_at.values())  # the mark is wrong, as on every packet of H.263 in AVI
                return
            if frame.pts in index_at:
                index = index_at[frame.pts]
                stack.put(index, self._image(frame, index, stack))

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
                    if packet.pts is None:  # FFmpeg's parsers lose the time of some packets after a seek
                        packet.pts = self._index.time_of(self._next - 1)
                    yield packet
                if self._next > last:
                    return

    def _seek(self, first: int) -> None:
        """Put the demuxer at packet `first` or at a known packet before it."""
        for time in self._index.times_of(first):
            self._demuxer.close()  # while it is open, the time limit of its last packet runs and would end the seek
            try:
                self._container.seek(time, stream=self._stream)
            except self._av.FFmpegError:
                continue  # some containers cannot seek
            self._demux()
            for packet, _ in zip(self._demuxer, range(_SEEK_LOOK), strict=False):
                number = self._index.number_of(packet.pts, packet.dts) if packet.size else None
                if number is not None and number <= first:
                    self._next, self._ahead = number, [packet]
                    return
                if number is not None:
                    break
        self._open()  # seeking overshoots in some containers: read on from the start

    def _image(self, frame: Any, index: int, stack: FrameStack) -> np.ndarray:
        if frame.is_corrupt:
            raise VideoError(self.path, f"frame {index} of {self.num_frames} is damaged")
        height, width = self._scaled(frame)
        stack.check(height, width, (frame.height, frame.width))  # again, because headers may lie
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        image = rgb.to_ndarray()
        return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image

    def _scaled(self, frame: Any) -> tuple[int, int]:
        """(height, width) in the clip of a frame, or of the frames of a decoder."""
        short = min(frame.height, frame.width)
        scale = min(1.0, self._short_side / short) if self._short_side and short else 1.0
        return max(1, round(frame.height * scale)), max(1, round(frame.width * scale))


def _with_decoding_times(packets: Generator[Any, None, None]) -> Generator[Any, None, None]:
    """The packets; those without a presentation time get their decoding time."""
    with closing(packets):
        for packet in packets:
            if packet.pts is None:
                packet.pts = packet.dts
            yield packet
