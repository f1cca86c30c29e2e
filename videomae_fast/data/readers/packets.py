"""Which packets of a video show which frames, from packet times alone: nothing is decoded."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MAX_PACKETS = 1 << 22  # of one video, 38 hours at 30 frames a second; an index of them takes about 2 GB


class PacketInfo(NamedTuple):
    """A packet as its container describes it: presentation and decoding times, and two marks."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_discard: bool  # cut off by an edit list: decoded, not shown


class PacketIndex:
    """Packets in the order of the file.

    Attributes:
        times: ascending presentation times of the shown frames; empty if only decoding can count the frames.
        in_file_order: whether `times` never fall from one packet to the next, as decoding times do. Where the stream
            reorders frames, these cannot be presentation times, whatever the container calls them.
    """

    def __init__(self, packets: Sequence[PacketInfo], has_hidden: bool) -> None:
        """Index packets.

        Args:
            packets: all packets of a stream.
            has_hidden: whether a packet may have the time of its neighbour and show nothing (VP8's alternate
                references).
        """
        self.times = _shown_times(packets, has_hidden)
        self.in_file_order = bool(self.times) and all(a.pts <= b.pts for a, b in pairwise(packets))  # type: ignore[operator]
        if self.times:
            self._times_of = [(packet.pts, packet.dts) for packet in packets]
            self._number_of = {times: number for number, times in reversed(list(enumerate(self._times_of)))}
            self._number_at = {packet.pts: number for number, packet in enumerate(packets)}
            self._keys = sorted((packet.pts or 0, number) for number, packet in enumerate(packets) if packet.is_key)

    def key_before(self, time: int) -> int:
        """Find where to start decoding.

        Args:
            time: one of `times`.

        Returns:
            Number of the last key packet, in presentation order, that is shown at `time` or before.
        """
        return self._keys[bisect_right(self._keys, (time, len(self._times_of))) - 1][1]

    def last_of(self, times: Sequence[int]) -> int:
        """Find where to stop decoding.

        Args:
            times: some of `self.times`.

        Returns:
            Number of the last packet that is shown at one of `times`.
        """
        return max(self._number_at[time] for time in times)

    def time_of(self, number: int) -> int | None:
        """The presentation time of a packet.

        Args:
            number: number of the packet.

        Returns:
            The time.
        """
        return self._times_of[number][0]

    def times_of(self, number: int) -> list[int]:
        """The times of a packet.

        Args:
            number: number of the packet.

        Returns:
            Its presentation and decoding times; a missing time is left out.
        """
        return [time for time in self._times_of[number] if time is not None]

    def number_of(self, pts: int | None, dts: int | None) -> int | None:
        """Find a packet.

        Args:
            pts: presentation time.
            dts: decoding time.

        Returns:
            Number of the first packet with these times; None if there is none.
        """
        return self._number_of.get((pts, dts))


def _shown_times(packets: Sequence[PacketInfo], has_hidden: bool) -> list[int]:
    order = [packet.dts for packet in packets if packet.dts is not None]
    first = next((number for number, packet in enumerate(packets) if packet.is_key), None)
    # Times start again where streams were concatenated.
    if first is None or order != sorted(order) or any(packet.pts is None for packet in packets):
        return []
    # Frames before the first key frame cannot be decoded.
    shown = [pts for pts, _, _, discard in packets[first:] if pts is not None and not discard]
    shown = [pts for pts in shown if pts >= (packets[first].pts or 0)]
    times = sorted(set(shown))
    return times if has_hidden or len(times) == len(shown) else []
