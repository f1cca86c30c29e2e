"""What the default reader does beside giving the right frames, which test_every_reader.py is about."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import files
from videomae_fast.data import VideoError, open_video
from videomae_fast.data.readers import AvVideo
from videomae_fast.data.readers import av as pyav

CLIP = np.arange(5, 60, 4)


def decoded_packets(path: Path, monkeypatch: pytest.MonkeyPatch, indices: np.ndarray) -> int:
    """How many packets reach the decoder for a clip."""
    count = []
    whole = AvVideo._decoded

    def counted(self: AvVideo, packets):
        return whole(self, (count.append(packet) or packet for packet in packets))

    with monkeypatch.context() as patch, closing(open_video(path)) as video:
        patch.setattr(AvVideo, "_decoded", counted)
        video.frames(indices)
    return sum(packet is not None for packet in count)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "pyramid.mp4", "slices.mp4", "vfr.mp4"])
def test_packets_that_nothing_refers_to_are_left_out(kinds: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with closing(open_video(kinds / name)) as video:
        frames = video.frames(CLIP)
    sparing = decoded_packets(kinds / name, monkeypatch, CLIP)
    monkeypatch.setattr(pyav, "is_disposable", lambda packet, length_bytes: False)
    with closing(open_video(kinds / name)) as video:
        np.testing.assert_array_equal(video.frames(CLIP), frames)
    assert sparing <= decoded_packets(kinds / name, monkeypatch, CLIP) - 5


@pytest.mark.parametrize("name", ["h264.ts", "hevc.mp4", "vp9.webm", "mpeg4.mp4", "mjpeg.avi"])
def test_nothing_is_left_out_where_packets_do_not_say(kinds: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def never(packet: memoryview, length_bytes: int) -> bool:
        raise AssertionError

    monkeypatch.setattr(pyav, "is_disposable", never)
    with closing(open_video(kinds / name)) as video:
        video.frames(CLIP)


def test_decoding_starts_at_the_key_frame(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded_packets(kinds / "mjpeg.avi", monkeypatch, np.array([3, 30, 57])) == 3
    assert decoded_packets(kinds / "no_b.avi", monkeypatch, np.array([37])) <= 12  # a key frame every 12


def test_reader_can_be_asked_again_and_closed(kinds: Path, stamp: Callable) -> None:
    for name in ("h264.mp4", "h264.ts", "mpeg4.avi"):
        video = open_video(kinds / name)
        assert [[stamp(frame) for frame in video.frames(np.array([i, i + 3]))] for i in (30, 2)] == [[30, 33], [2, 5]]
        video.close()
        video.close()


def test_reduced_short_side(kinds: Path, sequential: Callable) -> None:
    for name, shape in (
        ("h264.mp4", (48, 64)),
        ("tall.mp4", (80, 48)),
        ("rotated.mp4", (64, 48)),
        ("odd.mp4", (48, 65)),
    ):
        frames = open_video(kinds / name, short_side=48).frames(np.array([0, 21]))
        assert frames.shape == (2, *shape, 3)
        whole = torch.from_numpy(np.stack(sequential(kinds / name))[[0, 21]]).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(whole, shape, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        assert (expected.int() - torch.from_numpy(frames).int()).abs().float().mean() < 3
    assert open_video(kinds / "h264.mp4", short_side=1000).frames(np.array([0])).shape == (1, 96, 128, 3)


def test_damaged_frames_are_an_error(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "h264.mkv").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    (tmp_path / "damaged.mkv").write_bytes(data)
    with closing(open_video(tmp_path / "damaged.mkv")) as video, pytest.raises(VideoError, match=r"damaged|cannot"):
        video.frames(np.arange(video.num_frames))


def test_streams_put_one_after_another(tmp_path: Path, sequential: Callable) -> None:
    first, second = (files.write_video(tmp_path / f"{g}.ts", 20, codec="mpeg2video", g=g) for g in ("5", "7"))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    expected = np.stack(sequential(tmp_path / "both.ts"))
    with closing(open_video(tmp_path / "both.ts")) as video:
        assert len(expected) == video.num_frames > 30
        np.testing.assert_array_equal(video.frames(np.arange(3, video.num_frames, 4)), expected[3::4])


def test_frames_of_several_sizes_are_an_error(tmp_path: Path) -> None:
    first, second = (files.write_video(tmp_path / f"{w}.ts", 20, width=w, codec="mpeg2video") for w in (96, 128))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with closing(open_video(tmp_path / "both.ts")) as video, pytest.raises(VideoError, match="several sizes"):
        video.frames(np.arange(video.num_frames))
    with closing(open_video(tmp_path / "both.ts")) as video, pytest.raises(VideoError, match="several sizes"):
        list(video.stream(np.arange(video.num_frames)))
