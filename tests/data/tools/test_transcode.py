import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videomae_fast.data import VideoEntry, VideoError, VideoFile, open_video, read_annotations
from videomae_fast.data.tools import encode
from videomae_fast.data.tools import transcode as module
from videomae_fast.data.tools.check import VideoCheck
from videomae_fast.data.tools.encode import encode_video
from videomae_fast.data.tools.transcode import transcode


def test_a_list(kinds: Path, bad_clips: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"h264.mp4 5 x\n{bad_clips}/garbage.mp4 6\nmjpeg.avi  7\nh264.mp4 8\n")
    call = lambda **options: transcode(  # noqa: E731
        tmp_path / "list.csv", tmp_path / "new", kinds, short_side=48, gop=16, **options
    )
    first = call(workers=2)
    assert (first.written, first.present, len(first.bad_videos)) == (2, 0, 1)
    assert first.bad_videos[0].path == str(bad_clips / "garbage.mp4")
    assert first.list_file.read_text() == "h264.mp4 5 x\nmjpeg.avi.mp4  7\nh264.mp4 8\n"
    assert [open_video(entry.path).frames(np.array([0])).shape for entry in read_annotations(first.list_file)] == [
        (1, 48, 64, 3)
    ] * 3
    sizes = [(kinds / name).stat().st_size for name in ("h264.mp4", "mjpeg.avi")]
    assert first.bytes_before == sum(sizes) and first.bytes_after > 0
    assert first.clips_per_second_before > 0 and first.clips_per_second_after > 0
    assert "2 videos written, 0 existed, 1 could not be read" in first.summary() and "garbage.mp4" in first.summary()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*.mp4")}
    second = call()
    assert (second.written, second.present, len(second.bad_videos)) == (0, 2, 1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*.mp4")} == written
    assert list((tmp_path / "new").rglob("*.part")) == []


WHOLE_JOB, WHOLE_CHECK, WHOLE_ENCODE = module._encode_job, module.check_video, encode._encode


def dies_after_writing(*arguments: Any) -> None:
    WHOLE_ENCODE(*arguments)
    if Path(arguments[2].name).stat().st_size:  # the unfinished file
        os.kill(os.getpid(), signal.SIGKILL)


def dies_on_mjpeg(job: tuple[Path, VideoEntry], short_side: int, gop: int) -> tuple:
    if job[1].path.endswith("mjpeg.avi"):
        encode._encode = dies_after_writing
    return WHOLE_JOB(job, short_side, gop)


def dies_on_original(entry: VideoEntry) -> VideoCheck:
    if entry.path.endswith("h264.mp4") and "new" not in Path(entry.path).parts:
        os.kill(os.getpid(), signal.SIGKILL)
    return WHOLE_CHECK(entry)


def test_crashes(kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_encode_job", dies_on_mjpeg)
    monkeypatch.setattr(module, "check_video", dies_on_original)
    (tmp_path / "list.csv").write_text("mjpeg.avi 5\nh264.mp4 6\nmpeg4.avi 7\n")
    done = transcode(tmp_path / "list.csv", tmp_path / "new", kinds, short_side=48, workers=2)
    assert done.list_file.read_text() == "h264.mp4 6\nmpeg4.avi.mp4 7\n" and done.written == 2
    (bad_video,) = done.bad_videos
    assert bad_video.path == str(kinds / "mjpeg.avi")
    assert bad_video.reason.startswith("the process that read it died (signal 9, ")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["h264.mp4", "list.txt", "mpeg4.avi.mp4"]
    assert done.clips_per_second_before > 0 and done.clips_per_second_after > 0


def test_shards_and_folders(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / "in").mkdir(parents=True)
    (tmp_path / "old" / "in" / "a.mkv").symlink_to(clips / "h264.mkv")
    with tarfile.open(tmp_path / "old" / "b.tar", "w") as shard:
        shard.add(clips / "more" / "seven.mp4", arcname="x.mp4")
    done = transcode(tmp_path / "old", tmp_path / "new")
    assert done.list_file.read_text() == "b.tar/x.mp4\nin/a.mkv.mp4\n" and done.written == 2
    assert open_video(tmp_path / "new" / "b.tar" / "x.mp4").num_frames == 7
    (tmp_path / "old" / "in" / "a.mkv").unlink()
    (tmp_path / "list.csv").write_text("b.tar\nin/a.mkv\n")
    again = transcode(tmp_path / "list.csv", tmp_path / "new", tmp_path / "old")
    assert again.present == 2 and again.bad_videos == []  # what is done stays, its original may go
    assert again.bytes_before == (clips / "more" / "seven.mp4").stat().st_size


def test_errors(clips: Path, bad_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"short_side": 1}, {"gop": 0}):
        with pytest.raises(ValueError, match="short_side must be at least 2 and gop at least 1"):
            transcode(clips, tmp_path / "new", **options)
    with pytest.raises(ValueError, match="holds the originals: name another folder"):
        transcode(clips, clips)
    (tmp_path / "list.txt").write_text(f"{clips}/h264.mp4\n")
    with pytest.raises(ValueError, match="holds the originals"):
        transcode(tmp_path / "list.txt", tmp_path, clips)
    (tmp_path / "list.csv").write_text(f"{tmp_path} 1 8\n")
    with pytest.raises(ValueError, match="is a folder of frames: only videos"):
        transcode(tmp_path / "list.csv", tmp_path / "new")
    (tmp_path / "list.csv").write_text("one/../a.mp4 1\none/a.mp4 1\n")
    (tmp_path / "one").mkdir()
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="would both be written to"):
        transcode(tmp_path / "list.csv", tmp_path / "new")
    for name in ("audio.mp4", "half.mp4", "gone.mp4"):
        with pytest.raises(VideoError, match=r"no video stream|cannot open it|no such file"):
            encode_video(VideoFile(str(bad_clips / name)), tmp_path / "x.mp4", 64, 8)
    assert not list(tmp_path.glob("x.mp4*"))
