"""Any codec in any container: index n is the n-th frame that sequential decoding gives, however times are stored."""

from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import VideoError, open_video

CONTAINERS = (
    "mp4",
    "mov",
    "m4v",
    "3gp",
    "mkv",
    "webm",
    "avi",
    "wmv",
    "asf",
    "flv",
    "ts",
    "mts",
    "mpg",
    "vob",
    "ogv",
    "nut",
)
CODECS: dict[str, dict[str, str]] = {
    "h264": {},
    "h264 pyramid": {"x264-params": "bframes=5:b-pyramid=normal"},
    "hevc": {"codec": "libx265", "x265-params": "log-level=none"},
    "mpeg4": {"codec": "mpeg4", "bf": "2"},
    "mpeg2": {"codec": "mpeg2video", "bf": "2"},
    "mpeg1": {"codec": "mpeg1video", "bf": "2"},
    "h263": {"codec": "h263"},
    "wmv2": {"codec": "wmv2"},
    "flv": {"codec": "flv"},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp8": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "ffv1": {"codec": "ffv1"},
}
SIZES = {"h263": {"width": 128, "height": 96}}
ALL = [(codec, container) for codec in CODECS for container in CONTAINERS]
QUICK = [
    ("h264", "wmv"),
    ("h264", "asf"),
    ("mpeg4", "wmv"),
    ("hevc", "flv"),
    ("mpeg2", "avi"),
    ("h263", "avi"),
    ("h264", "nut"),
]
DAMAGED = [("h263", "vob"), ("h263", "mpg")]  # FFmpeg calls frames of what it wrote damaged


def check(folder: Path, codec: str, container: str) -> None:
    path = folder / f"clip.{container}"
    try:
        files.write_video(path, 60, **SIZES.get(codec, {}), **CODECS[codec])
        expected = np.stack(files.sequential(path))
    except (av.FFmpegError, ValueError, AttributeError) as error:  # AttributeError: it is no video stream there
        pytest.skip(f"FFmpeg does not write or read {codec} in {container}: {error}")
    with closing(open_video(path)) as video:
        assert video.num_frames == len(expected)
        rng = np.random.default_rng(0)
        for indices in (np.arange(len(expected)), *(rng.integers(len(expected), size=5) for _ in range(8))):
            np.testing.assert_array_equal(video.frames(indices), expected[indices])


@pytest.mark.parametrize(("codec", "container"), QUICK)
def test_frames_are_in_the_order_of_sequential_decoding(codec: str, container: str, tmp_path: Path) -> None:
    check(tmp_path, codec, container)


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "container"), [pair for pair in ALL if pair not in (*QUICK, *DAMAGED)])
def test_frames_are_in_order_in_every_container(codec: str, container: str, tmp_path: Path) -> None:
    check(tmp_path, codec, container)


def test_a_palette_holds_after_a_seek(tmp_path: Path) -> None:
    """Raw AVI of 256 colours has its palette in the header, and only the first packet brings it to the decoder."""
    path = tmp_path / "paletted.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        colours = np.random.default_rng(0).integers(256, size=(256, 4), dtype=np.uint8)
        colours[:, 0] = 255
        for index in range(20):
            picture = np.full((48, 64), index * 12, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray((picture, colours), format="pal8")))
        container.mux(stream.encode())
    expected = np.stack(files.sequential(path))
    assert len({frame.tobytes() for frame in expected}) == 20
    with closing(open_video(path)) as video:
        for indices in ([17], [3, 12], [19, 0, 5]):
            np.testing.assert_array_equal(video.frames(np.array(indices)), expected[indices])


def test_a_video_of_too_many_packets_is_refused(kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomae_fast.data.readers.av.MAX_PACKETS", 59)
    with pytest.raises(VideoError, match=r"h264\.mp4: has more than 59 packets"):
        open_video(kinds / "h264.mp4")
