import pytest

from videomae_fast.data.readers.h264 import is_disposable, nal_length_bytes


def unit(reference: int, kind: int, size: int = 5) -> bytes:
    return size.to_bytes(4, "big") + bytes([reference << 5 | kind]) + bytes(size - 1)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (unit(0, 1), True),
        (unit(1, 1), False),
        (unit(3, 5), False),
        (unit(0, 6) + unit(0, 1) + unit(0, 1), True),  # supplemental information and two slices
        (unit(0, 1) + unit(2, 1), False),
        (unit(3, 7) + unit(0, 1), False),  # carries parameters that later pictures need
        (unit(0, 9) + unit(0, 14) + unit(0, 1), False),  # scalable coding: left alone
        (unit(0, 6), False),  # no picture
        (b"", False),
    ],
)
def test_disposable_packets(packet: bytes, expected: bool) -> None:
    assert is_disposable(memoryview(packet), 4) is expected


def test_length_of_the_length() -> None:
    record = bytes([1, 100, 0, 30, 0xFC | 1, 0xE1, 0])
    assert nal_length_bytes("h264", record) == 2
    assert nal_length_bytes("hevc", record) == nal_length_bytes("h264", None) == 0
    assert nal_length_bytes("h264", b"\0\0\0\1" + record) == 0  # start codes instead
