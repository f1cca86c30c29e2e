import os
import signal
import tarfile
from pathlib import Path

import pytest

from tests.data import files
from videomae_fast.data import read_annotations
from videomae_fast.data.tools import check
from videomae_fast.data.tools.check import VideoCheck, check_data

NAMES = ["good/h264.mp4", "bad/empty.mp4", "good/more/tall.mp4", "bad/garbage.mp4", "good/mjpeg.avi", "good/cut.mkv"]


@pytest.fixture
def folder(clips: Path, bad_clips: Path, tmp_path: Path) -> Path:
    """A folder of good and bad videos, and list.csv, which names some of them, and one that is not there."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "good").symlink_to(clips)
    (tmp_path / "videos" / "bad").symlink_to(bad_clips)
    (tmp_path / "videos" / "list.csv").write_text("".join(f"{name} {i}\n" for i, name in enumerate(NAMES)))
    return tmp_path / "videos"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_found(folder: Path, workers: int) -> None:
    calls = []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    found = check_data(folder / "list.csv", workers=workers, progress=progress)
    assert [video.path for video in found.videos] == [str(folder / name) for name in NAMES]
    assert [Path(video.path).name for video in found.bad] == ["empty.mp4", "garbage.mp4", "cut.mkv"]
    assert [video.reason for video in found.bad][::2] == ["the file is empty (0 bytes)", "no such file"]
    h264, _, tall, _, mjpeg, _ = found.videos
    assert (h264.codec, h264.width, h264.height, h264.frames) == ("h264", 128, 96, 60)
    assert (tall.codec, tall.width, tall.height, mjpeg.codec) == ("h264", 96, 160, "mjpeg")
    assert h264.seconds == pytest.approx(2.4, abs=0.1) and h264.decode_seconds > 0
    good = [video.decode_seconds for video in found.videos if not video.reason]
    assert found.clips_per_second == pytest.approx(3 / sum(good))
    assert calls == [(i, 6) for i in range(1, 7)]


WHOLE_TASK = check._check_task


def dies_on_mjpeg(task: tuple) -> VideoCheck:
    if task[0].path.endswith("mjpeg.avi"):
        os.kill(os.getpid(), signal.SIGKILL)
    return WHOLE_TASK(task)


def test_a_crash_is_a_bad_video(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = check_data(folder / "list.csv")
    monkeypatch.setattr(check, "_check_task", dies_on_mjpeg)
    found = check_data(folder / "list.csv", workers=2, clean=folder / "clean.csv")
    mjpeg = NAMES.index("good/mjpeg.avi")
    assert found.videos[mjpeg].path == str(folder / "good" / "mjpeg.avi")
    assert "the process that read it died (signal 9, " in found.videos[mjpeg].reason
    seen = [[(video.path, video.reason, video.frames) for video in done.videos] for done in (without, found)]
    assert [row.pop(mjpeg)[1] == "" for row in seen] == [True, False] and seen[0] == seen[1]
    assert (folder / "clean.csv").read_text() == "good/h264.mp4 0\ngood/more/tall.mp4 2\n"


def test_summary_and_table(folder: Path) -> None:
    found = check_data(folder / "list.csv", reader="decord")
    text = found.summary()
    assert "6 videos, 3 bad" in text and "codecs: h264 2, mjpeg 1" in text and "frames: 60 to 60, median 60" in text
    assert "short side: 96 to 96 pixels" in text
    for video in found.bad:
        assert f"{video.path}: {video.reason}" in text
    found.write(folder / "report.tsv")
    header, *rows = (line.split("\t") for line in (folder / "report.tsv").read_text().splitlines())
    assert header[:4] == ["path", "reason", "codec", "width"] and {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in rows] == [video.path for video in found.videos]


def test_damage_at_the_end_is_found(clips: Path, tmp_path: Path) -> None:
    whole = files.write_video(tmp_path / "a.mkv", 60).read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[:-300] + bytes(300))
    assert "frame" in check_data(tmp_path).videos[0].reason or check_data(tmp_path).videos[0].frames < 60


def test_clean_list_keeps_lines_and_can_be_read_anywhere(folder: Path, tmp_path: Path) -> None:
    check_data(folder / "list.csv", clean=folder / "clean.csv")
    assert (folder / "clean.csv").read_text() == "good/h264.mp4 0\ngood/more/tall.mp4 2\ngood/mjpeg.avi 4\n"
    check_data(folder / "list.csv", root=folder, clean=tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines()[1] == f"{folder}/good/more/tall.mp4 2"
    assert list(read_annotations(tmp_path / "clean.csv")) == list(read_annotations(folder / "clean.csv"))
    assert not check_data(tmp_path / "clean.csv").bad


def test_raw_frames_and_shards(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(clips / "h264.mp4", arcname="x.mp4")
        shard.addfile(tarfile.TarInfo("y.mp4"))
    (tmp_path / "frames").mkdir()
    (tmp_path / "list.csv").write_text("a.tar 0 -1\nframes 1 8\n")
    found = check_data(tmp_path / "list.csv", clean=tmp_path / "clean.csv")
    assert [(Path(video.path).name, video.reason) for video in found.videos] == [
        *(("x.mp4", ""), ("y.mp4", "is empty"), ("frames", "img_00001.jpg: no such frame"))
    ]
    assert (tmp_path / "clean.csv").read_text() == "a.tar 0 -1\n"


def test_mixtures(folder: Path, tmp_path: Path) -> None:
    (folder / "x1.png").write_bytes(b"")
    (folder / "frames.csv").write_text(". 1 1\n")
    sources = '[{"data": "list.csv", "weight": 0.1}, {"data": "frames.csv", "template": "x{}.png"}]'
    (folder / "mixture.json").write_text(sources)
    found = check_data(folder / "mixture.json")
    assert len(found.videos) == 7 and found.videos[6].reason.startswith("x1.png: cannot be read (cannot identify")
    with pytest.raises(ValueError, match=r"mixture.json is a mixture of lists .* name one of its sources"):
        check_data(folder / "mixture.json", clean=tmp_path / "clean.csv")


def test_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"list.csv exists and is not overwritten"):
        check_data(folder / "list.csv", clean=folder / "list.csv")
    with pytest.raises(ValueError, match="reader must be one of"):
        check_data(folder / "list.csv", reader="opencv")
    with pytest.raises(ValueError, match="workers must not be negative, got -1"):
        check_data(folder / "list.csv", workers=-1)
