"""Videos from strangers: each is read, or is a VideoError that names it. None opens another file or waits."""

import os
import pickle
import stat
import tarfile
import time
import warnings
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import TarMember, VideoError, open_entry, open_video
from videomae_fast.data.readers import AvVideo, base, container, local_file, registry
from videomae_fast.data.sources.shards import VIDEO_SUFFIXES, members
from videomae_fast.data.tools.check import check_data
from videomae_fast.data.tools.transcode import transcode

ID3 = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
PLAYLISTS = {
    "concat": b"ffconcat version 1.0\nfile h264.mp4\n",
    "concat after a tag": ID3 + b"ffconcat version 1.0\nfile h264.mp4\n",
    "concat after two tags": ID3 + ID3 + b"ffconcat version 1.0\nfile h264.mp4\n",
    "hls": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nh264.ts\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "imf": b'<?xml version="1.0"?>\n<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">',
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    "vobsub": b"# VobSub index file, v7\nid: en, index: 0\n",
}
# How a video of each suffix is made where H.264 does not go into it.
CODECS: dict[str, dict[str, str]] = {
    **{suffix: {"codec": "mpeg2video"} for suffix in (".mpeg", ".mpg", ".vob", ".mxf")},
    **{suffix: {"codec": "libvpx"} for suffix in (".webm", ".ivf", ".ogv")},
    ".flv": {"codec": "flv"},
    ".wmv": {"codec": "wmv2"},
    ".gif": {"codec": "gif", "pix_fmt": "rgb8"},
    ".y4m": {"codec": "wrapped_avframe"},
    ".rm": {"codec": "rv20"},
    ".hevc": {"codec": "libx265", "x265-params": "log-level=none"},
    ".mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
OTHER_SUFFIXES = (".vob", ".mxf", ".nut", ".ivf", ".gif", ".y4m", ".rm", ".h264", ".hevc", ".mjpeg")
SHAPES = {".rm": {"width": 176, "height": 144}}


@pytest.mark.parametrize("suffix", [*VIDEO_SUFFIXES, *OTHER_SUFFIXES])
def test_containers_of_ordinary_users_open(tmp_path: Path, suffix: str) -> None:
    path = files.write_video(tmp_path / f"clip{suffix}", 8, **SHAPES.get(suffix, {}), **CODECS.get(suffix, {}))
    with closing(open_video(path)) as video:
        assert video.num_frames == 8


def test_allowed_containers_are_known_to_ffmpeg() -> None:
    assert set(container.CONTAINERS) <= av.formats_available


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".avi", ".webm", ".flv"])
def test_metadata_that_is_no_utf8(reader: str, tmp_path: Path, suffix: str) -> None:
    title = b"MARKED TITLE"
    with av.open(str(tmp_path / f"clip{suffix}"), "w") as written:
        written.metadata["title"] = title.decode()
        stream = written.add_stream("libvpx" if suffix == ".webm" else "flv" if suffix == ".flv" else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(files.stamped(0, 64, 64), "rgb24")
            frame.pts = index
            written.mux(stream.encode(frame))
        written.mux(stream.encode())
    path = tmp_path / f"clip{suffix}"
    data = path.read_bytes()
    assert title in data
    path.write_bytes(data.replace(title, b"\xff\xfe\x80\xe9 \xc3(TITLE"))
    with closing(open_video(path, reader)) as video:
        assert video.frames(np.arange(4)).shape == (4, 64, 64, 3)


@pytest.mark.parametrize(("name", "old"), [("h264.mp4", b"avc1"), ("h264.mkv", b"V_MPEG4/ISO/AVC")])
def test_codec_without_decoder(reader: str, clips: Path, tmp_path: Path, name: str, old: bytes) -> None:
    (tmp_path / name).write_bytes((clips / name).read_bytes().replace(old, old[:-1] + b"9"))
    with pytest.raises(VideoError, match="no decoder for the codec" if reader == "av" else name):
        open_video(tmp_path / name, reader)


def test_codec_without_decoder_is_a_bad_video_of_every_command(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    good = (clips / "h264.mp4").read_bytes()
    (folder / "good.mp4").write_bytes(good)
    (folder / "unknown.mp4").write_bytes(good.replace(b"avc1", b"qqq1"))
    assert [Path(video.path).name for video in check_data(folder).bad] == ["unknown.mp4"]
    done = transcode(folder, tmp_path / "new")
    assert (done.written, [Path(video.path).name for video in done.bad_videos]) == (1, ["unknown.mp4"])


@pytest.mark.parametrize("error", [AttributeError, UnicodeError, ValueError, MemoryError, OverflowError, OSError])
@pytest.mark.parametrize("method", ["_count_frames", "_image"])
def test_every_exception_is_the_readers_own(
    clips: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], method: str
) -> None:
    def fail(*_: object) -> None:
        raise error("first\nsecond")

    monkeypatch.setattr(AvVideo, method, fail)
    with pytest.raises(VideoError, match=r"h264.mp4: av cannot (open|decode) it \(first\)$"):
        open_video(clips / "h264.mp4").frames(np.array([3]))


def test_a_missing_package_is_no_fault_of_the_video() -> None:
    for error in (ImportError, KeyboardInterrupt):
        with pytest.raises(error), base.video_errors("a.mp4", "cannot"):
            raise error


def test_messages_are_one_line_that_a_terminal_does_not_obey() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a\n\x1b[2J\u2028.mp4", "b\r\x1b]0;title\x07\nc")))
    assert error.path == "a\n\x1b[2J\u2028.mp4"
    assert str(error) == r"a\n\x1b[2J\u2028.mp4: b \x1b]0;title\x07 c"


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_playlists_are_refused(reader: str, kinds: Path, tmp_path: Path, playlist: str) -> None:
    for name in ("h264.mp4", "h264.ts"):
        (tmp_path / name).symlink_to(kinds / name)
    (tmp_path / "list.mp4").write_bytes(PLAYLISTS[playlist])
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(tmp_path / "list.mp4", "list.mp4")
    (found,) = members(tmp_path / "shard.tar")
    for open_it in (
        lambda: open_video(tmp_path / "list.mp4", reader),
        lambda: open_entry(TarMember(str(tmp_path / "shard.tar"), *found), reader),
    ):
        with pytest.raises(VideoError, match=r"list\.mp4: is a playlist"):
            open_it()


def test_no_good_file_is_taken_for_a_playlist(kinds: Path) -> None:
    for name in (*files.KINDS, *files.DERIVED):
        local_file.check_no_playlist(str(kinds / name), name)


@pytest.mark.parametrize("content", [PLAYLISTS["concat"], ID3 + PLAYLISTS["concat"], b"WEBVTT\n\n00:01.000 --> 00:02"])
def test_av_allows_demuxers_by_list(kinds: Path, tmp_path: Path, content: bytes) -> None:
    """Whatever the search for playlists finds, which `AvVideo` itself does not do."""
    (tmp_path / "h264.mp4").symlink_to(kinds / "h264.mp4")
    (tmp_path / "list.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"not a video container that is allowed \(allowed: mov, matroska, avi, "):
        AvVideo("list.mp4", str(tmp_path / "list.mp4"))


@pytest.mark.parametrize("url", ["concat:{0}|{0}", "cache:{0}", "async:{0}", "http://127.0.0.1:9/a.mp4"])
def test_av_allows_protocols_by_list(kinds: Path, url: str) -> None:
    path = str(kinds / "h264.ts")
    assert AvVideo("a.ts", path).num_frames == 60
    with pytest.raises(VideoError, match="is damaged or not"):
        AvVideo("a.ts", url.format(path))


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi"])  # read from key frames and from the start
def test_time_is_limited(kinds: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with closing(open_video(kinds / name)) as video:
        monkeypatch.setattr(base, "TIME_LIMIT", 0.0)
        with pytest.raises(VideoError, match=f"{name}: takes more than 0 s to read"):
            video.frames(np.array([30]))
        with pytest.raises(VideoError, match=f"{name}: takes more than 0 s to read"):
            open_video(kinds / name)
        monkeypatch.undo()
        assert files.stamp(video.frames(np.array([30]))[0]) == 30


def test_the_limit_of_an_earlier_call_does_not_end_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(256, size=(240, 320, 3), dtype=np.uint8)
    monkeypatch.setattr(files, "stamped", lambda index, height, width: np.roll(noise, 17 * index, axis=1))
    path = files.write_video(tmp_path / "large.ts", 40, 240, 320, codec="mpeg2video", b="8000000")
    assert path.stat().st_size > 1 << 20  # so that a seek reads from the disk, where FFmpeg looks at its limit
    monkeypatch.setattr(container, "TIME_LIMIT", 1.0)
    with closing(open_video(path)) as video:
        video.frames(np.array([3]))
        time.sleep(1.1)
        assert video.frames(np.array([35])).shape == (1, 240, 320, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_regular_file_is_not_opened(reader: str, clips: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to("fifo.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    for name, reason in {
        "fifo": "is a FIFO, not a regular file",
        "link": "is a FIFO, not a regular file",
        "device": "is a device, not a regular file",
        "folder": "is a folder, not a regular file",
        "dangling": "no such file",
        "a\0b": "embedded null",
        "a" * 300: "name too long",
    }.items():
        with pytest.raises(VideoError, match=reason):
            open_video(tmp_path / f"{name}.mp4", reader)


def test_unreadable_files_are_named(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "h264.mp4")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(VideoError, match=r"h264.mp4: Permission denied$"):
        open_video(clips / "h264.mp4")


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
def test_a_reader_that_cannot_be_restricted_warns_once(name: str) -> None:
    registry._warn_unrestricted.cache_clear()
    with pytest.warns(UserWarning, match=f"reader '{name}' cannot be kept from other files"):
        registry.check_reader(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.check_reader(name)
        registry.check_reader("av")


@pytest.mark.parametrize(
    ("mode", "kind"), [(stat.S_IFBLK, "a device"), (stat.S_IFSOCK, "a socket"), (0, "something else")]
)
def test_kinds_of_files_that_a_test_cannot_make(monkeypatch: pytest.MonkeyPatch, mode: int, kind: str) -> None:
    monkeypatch.setattr(local_file.os, "stat", lambda path: os.stat_result((mode, *[0] * 9)))
    with pytest.raises(VideoError, match=f"is {kind}, not a regular file"):
        local_file.file_size("a.mp4", "a.mp4")
