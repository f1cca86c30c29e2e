"""Files from strangers: each is read, or is a VideoError that names it; none opens another file."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from videomae_fast.data.readers import VideoError, base, open_video
from videomae_fast.data.tools.check import check_data
from videomae_fast.data.tools.transcode import transcode

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile other.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_other_file(kind: str, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    write_video(tmp_path / "other.mp4")
    (tmp_path / "list.mp4").write_text(PLAYLISTS[kind])
    with pytest.raises(VideoError, match=r"list\.mp4: "):
        open_video(tmp_path / "list.mp4")


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_a_title_that_is_no_utf8_is_no_matter(
    suffix: str, tmp_path: Path, write_video: Callable[..., Path], stamp: Callable[[np.ndarray], int]
) -> None:
    written, target = write_video(tmp_path / f"plain.{suffix}"), tmp_path / f"titled.{suffix}"
    with av.open(str(written)) as source, av.open(str(target), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    content = target.read_bytes()
    assert b"TITLETITLE" in content
    target.write_bytes(content.replace(b"TITLETITLE", b"\xff\xfeTITLE\xe9\x80\xc3"))
    with closing(open_video(target)) as video:
        assert [stamp(frame) for frame in video.frames(np.array([0, 7]))] == [0, 7]


def test_a_codec_without_a_decoder_is_a_bad_video_everywhere(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4")
    bad = write_video(folder / "unknown.mp4")
    bad.write_bytes(bad.read_bytes().replace(b"avc1", b"qqq1"))
    with pytest.raises(VideoError, match=r"unknown\.mp4: has no decoder"):
        open_video(bad)
    assert [Path(video.path).name for video in check_data(folder).bad] == ["unknown.mp4"]
    done = transcode(folder, tmp_path / "new")
    assert (done.written, [Path(video.path).name for video in done.bad_videos]) == (1, ["unknown.mp4"])


def test_reading_has_a_time_limit(
    tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_video(write_video(tmp_path / "clip.mp4"))) as video:
        monkeypatch.setattr(base, "TIME_LIMIT", -1.0)
        with pytest.raises(VideoError, match=r"clip\.mp4: takes more than"):
            video.frames(np.array([30]))


def test_an_error_is_one_printable_line() -> None:
    error = VideoError("a\n\x1b[2Jb.mp4", "broken\x07\nhere")
    assert str(error).isprintable() and error.path == "a\n\x1b[2Jb.mp4"
