import pytest

from videomae_fast.data.readers.packets import PacketIndex, PacketInfo


def packets(*rows: tuple) -> list[PacketInfo]:
    """Rows of (pts, dts, marks): "k" for a key frame, "d" for one that is cut off."""
    return [PacketInfo(pts, dts, "k" in marks, "d" in marks) for pts, dts, marks in rows]


GOPS = packets((0, 0, "k"), (3, 1, ""), (1, 2, ""), (2, 3, ""), (6, 4, "k"), (4, 5, ""), (5, 6, ""), (7, 7, ""))


def test_frames_and_where_to_decode_them_from() -> None:
    index = PacketIndex(GOPS, has_hidden=False)
    assert index.times == list(range(8))
    assert [index.key_before(time) for time in index.times] == [0] * 6 + [4] * 2  # 4 and 5 lead the second key frame
    assert index.last_of([1, 3]) == 2 and index.last_of([7, 4]) == 7
    assert index.times_of(1) == [3, 1] and index.number_of(3, 1) == 1 and index.number_of(3, 3) is None


@pytest.mark.parametrize(
    ("given", "has_hidden", "times"),
    [
        (packets((-2, 0, "kd"), (-1, 1, "d"), (0, 2, "")), False, [0]),  # an edit list
        (packets((1, 0, ""), (5, 1, "k"), (3, 2, ""), (6, 3, "")), False, [5, 6]),  # what leads the first key frame
        (packets((0, 0, "k"), (2, 1, ""), (2, 2, "")), True, [0, 2]),  # a hidden reference
        (packets((0, 0, "k"), (2, 1, ""), (2, 2, "")), False, []),  # two frames at one time: only decoding tells
        (packets((0, 0, "k"), (None, 1, "")), False, []),
        (packets((0, 0, "k"), (1, 1, ""), (0, 0, "k"), (1, 1, "")), False, []),  # times start again
        (packets((0, 0, ""), (1, 1, "")), False, []),  # no key frame
        ([], False, []),
    ],
)
def test_shown_times(given: list[PacketInfo], has_hidden: bool, times: list[int]) -> None:
    assert PacketIndex(given, has_hidden).times == times
