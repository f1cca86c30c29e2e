import errno
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.locks import locked_elsewhere
from videomae_fast._lock import LOCK
from videomae_fast.cli import main
from videomae_fast.data import UnreadableVideosError, VideoEntry, VideoError, VideoFile, open_video, read_annotations
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
    assert everything(tmp_path / "new") == {"h264.mp4", "list.txt", "mpeg4.avi.mp4"}
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
    for name in ("audio.mp4", "half.mp4", "gone.mp4"):
        with pytest.raises(VideoError, match=r"no video stream|cannot open|no such file"):
            encode_video(VideoFile(str(bad_clips / name)), tmp_path / "x.mp4", 64, 8)
    assert not list(tmp_path.glob("x.mp4*"))


def everything(folder: Path) -> set[str]:
    """All files below a folder, but for the lock."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() and path.name != LOCK}


def tar(path: Path, members: dict[str, Path]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, video in members.items():
            info = shard.gettarinfo(video)
            info.name, info.pax_headers = name, {"path": name}  # a plain header ends the name at a NUL
            with open(video, "rb") as file:
                shard.addfile(info, file)


@pytest.mark.parametrize("workers", [0, 1])
def test_hostile_members_stay_inside(clips: Path, tmp_path: Path, workers: int) -> None:
    seven, one = clips / "more" / "seven.mp4", clips / "more" / "one.mp4"
    (tmp_path / "new").mkdir()
    (tmp_path / "elsewhere").mkdir()
    absolute = f"/{tmp_path}/elsewhere/a.mp4"
    names = [absolute, "../../up.mp4", "C:\\x.mp4", "in/../b.mp4", "nul\0.mp4", "l" * 300 + ".mp4", "odd\x1b\u2028.mp4"]
    tar(tmp_path / "x.tar", dict.fromkeys(names, seven) | {"link/c.mp4": one, "b.mp4/d.mp4": one, "in/b.mp4": one})
    (tmp_path / "new" / "x.tar").mkdir()
    (tmp_path / "new" / "x.tar" / "link").symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path)
    done = transcode(tmp_path / "x.tar", tmp_path / "new", workers=workers)
    placed = [absolute.strip("/"), "up.mp4", "C:\\x.mp4", "in/b.mp4", "odd\x1b\u2028.mp4", "b.mp4/d.mp4"]
    assert everything(tmp_path) - before == {f"new/{name}" for name in ["list.txt", *(f"x.tar/{n}" for n in placed)]}
    reasons = {bad.path.removeprefix(f"{tmp_path}/x.tar/"): bad.reason for bad in done.bad_videos}
    assert reasons.keys() == {"nul\0.mp4", "l" * 300 + ".mp4", "link/c.mp4", "in/b.mp4"}
    assert "NUL character" in reasons["nul\0.mp4"] and "a link leads there" in reasons["link/c.mp4"]
    assert "cannot be the name of the new video" in reasons["l" * 300 + ".mp4"]
    assert reasons["in/b.mp4"].endswith("as " + f"{tmp_path}/x.tar/in/../b.mp4 is")
    assert all(reason.isprintable() for reason in reasons.values())
    again = transcode(tmp_path / "x.tar", tmp_path / "new", workers=workers)
    assert (again.written, again.present, again.bad_videos) == (0, 6, done.bad_videos)


def test_paths_of_a_list_stay_inside_and_the_first_of_two_has_the_place(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "in/a.mp4"):
        (tmp_path / name).symlink_to(clips / "more" / "one.mp4")
    (tmp_path / "list.csv").write_text(f"in/../a.mp4 1\nin/a.mp4 2\nin/../a.mp4 3\n/{tmp_path}/a.mp4 4\n")
    done = transcode(tmp_path / "list.csv", tmp_path / "new")
    absolute = f"{tmp_path}/a.mp4"[1:]
    assert done.list_file.read_text() == f"in/a.mp4 1\nin/a.mp4 3\n{absolute} 4\n"
    assert everything(tmp_path / "new") == {"list.txt", "in/a.mp4", absolute}
    (bad,) = done.bad_videos
    assert bad.path == f"{tmp_path}/in/a.mp4" and "it would be written to" in bad.reason


def test_no_good_video_is_an_error(bad_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UnreadableVideosError, match=r"none of 4 videos could be encoded again:(\n  .*\.mp4: .+){4}$"):
        transcode(bad_clips, tmp_path / "new")
    assert main(["transcode", str(bad_clips), str(tmp_path / "new"), "--workers", "0"]) == 2
    assert "error: none of 4 videos" in capsys.readouterr().err
    assert everything(tmp_path) == set()


def test_a_second_call_is_kept_out(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "list.txt").write_text(f"{clips}/h264.mp4\n")
    with locked_elsewhere(tmp_path / "new"), pytest.raises(ValueError, match="new is in use by another run"):
        transcode(tmp_path / "list.txt", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    assert transcode(tmp_path / "list.txt", tmp_path / "new").written == 1


def test_what_a_killed_call_left_is_replaced(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".one.mp4.part").write_bytes(b"half a video")
    (tmp_path / "list.csv").write_text("one.mp4 1\n")
    transcode(tmp_path / "list.csv", tmp_path / "new", clips / "more")
    assert everything(tmp_path / "new") == {"list.txt", "one.mp4"}


class FullAfter(encode._Target):
    """The disk is full as soon as the second video is written."""

    def write(self, data: bytes) -> int:
        if "seven" in self.name:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.error
        return super().write(data)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_full_disk_ends_the_call_and_the_next_one_goes_on(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, workers: str
) -> None:
    (tmp_path / "list.csv").write_text("one.mp4 1\nseven.mp4 2\ntall.mp4 3\n")
    command = ["transcode", str(tmp_path / "list.csv"), str(tmp_path / "new"), "--root", str(clips / "more")]
    with monkeypatch.context() as patch:
        patch.setattr(encode, "_Target", FullAfter)
        assert main([*command, "--workers", workers]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "No space left on device" in line and "seven.mp4" in line and "the same call continues" in line
    assert everything(tmp_path / "new") in ({"one.mp4"}, {"one.mp4", "tall.mp4"})
    assert main([*command, "--workers", workers]) == 0
    assert everything(tmp_path / "new") == {"list.txt", "one.mp4", "seven.mp4", "tall.mp4"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 200 KB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "old").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 256, 256, 3), dtype=np.uint8)
    for name in "abc":
        with av.open(str(tmp_path / "old" / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
            container.mux([p for frame in noise for p in stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24"))])
            container.mux(stream.encode())
    command = ["transcode", str(tmp_path / "old"), str(small_disk / "new"), "--workers", "0", "--short-side"]
    assert main([*command, "128"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    done = everything(small_disk / "new")
    assert "list.txt" not in done and done <= {"a.mp4", "b.mp4"} and not any(".part" in name for name in done)
    assert main([*command, "16"]) == 0  # smaller videos fit; those that were complete stay
    assert everything(small_disk / "new") == {"a.mp4", "b.mp4", "c.mp4", "list.txt"}
