"""Which packets of an H.264 stream no other frame references (ITU-T H.264 §7.3.1, §7.4.1; ISO/IEC 14496-15)."""

_SLICES = (1, 2, 3, 4, 5)  # NAL unit types that hold a picture
_HARMLESS = (6, 9, 12)  # supplemental information, delimiter, filler: no later frame needs them


def nal_length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length field before each NAL unit, from the avcC record.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the codec's configuration in the container.

    Returns:
        1 to 4; 0 if the stream is not H.264 with an avcC record.
    """
    if codec != "h264" or not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def is_disposable(packet: memoryview, length_bytes: int) -> bool:
    """Whether all slices of a packet have nal_ref_idc 0, so that skipping it changes no other frame.

    Args:
        packet: its bytes.
        length_bytes: as `nal_length_bytes` returns it, positive.

    Returns:
        True if no other frame references the packet.
    """
    position, slices = 0, 0
    while position + length_bytes < len(packet):
        header = packet[position + length_bytes]
        reference, kind = header >> 5 & 3, header & 31
        if kind in _SLICES and reference == 0:
            slices += 1
        elif kind not in _HARMLESS:
            return False
        position += length_bytes + int.from_bytes(packet[position : position + length_bytes], "big")
    return slices > 0
