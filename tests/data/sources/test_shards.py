import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data import files
from videomae_fast.data import ClipDataset, Mixture, TarMember, VideoError, VideoSource, open_entry, read_annotations

LONG = "a folder with a name/" * 8 + "long.mp4"  # more than the 100 characters that a plain header holds


@pytest.fixture
def shards(clips: Path, tmp_path: Path) -> Path:
    """Two tar files as WebDataset's: samples of a video and a label."""
    for number, names in enumerate((("h264.mp4", "mjpeg.avi"), ("more/vp8.webm", "mpeg4.avi", LONG))):
        with tarfile.open(tmp_path / f"train-{number:03}.tar", "w") as shard:
            for name in names:
                shard.add(clips / ("h264.mp4" if name == LONG else name), arcname=name)
                label = tarfile.TarInfo(f"{name.rsplit('.', 1)[0]}.cls")
                shard.addfile(label)
    return tmp_path


def test_members_are_videos_like_any_other(shards: Path, clips: Path) -> None:
    entries = read_annotations(shards)
    assert [entry.member for entry in entries] == ["h264.mp4", "mjpeg.avi", "more/vp8.webm", "mpeg4.avi", LONG]
    assert entries[4].path == str(shards / "train-001.tar")
    for entry in entries:
        name = "h264.mp4" if entry.member == LONG else entry.member
        expected = np.stack(files.sequential(clips / name))
        for reader in ("av", "decord"):
            np.testing.assert_array_equal(open_entry(entry, reader).frames(np.arange(60)), expected)


def test_shards_in_lists_and_alone(shards: Path) -> None:
    (shards / "list.txt").write_text("train-001.tar\ntrain-000.tar\n")
    read = read_annotations(shards / "list.txt")
    assert [entry.member for entry in read] == ["more/vp8.webm", "mpeg4.avi", LONG, "h264.mp4", "mjpeg.avi"]
    assert list(read_annotations(shards / "train-000.tar")) == list(read)[3:]
    (shards / "list.txt").write_text("train-000.tar 4\ntrain-001.tar 0 \n")  # every video has the label of its line
    assert [entry.label for entry in read_annotations(shards / "list.txt")] == [4, 4, 0, 0, 0]


def test_clips_come_from_members_and_errors_name_them(shards: Path) -> None:
    entries = list(read_annotations(shards / "train-000.tar"))
    bad = entries[0]._replace(start=entries[0].start + 3)
    mixture = Mixture([VideoSource(read_annotations(shards))])
    dataset = ClipDataset(mixture, num_frames=4, frame_stride=2, size=(32, 32), crops_per_video=1, seed=0)
    assert not any(dataset[(index, index)].bad_videos for index in range(5))
    with pytest.raises(VideoError, match="cannot open") as caught:
        open_entry(bad)
    assert caught.value.path == str(shards / "train-000.tar" / "h264.mp4")
    (shards / "train-000.tar").write_bytes(b"short")
    with pytest.raises(VideoError, match="the tar file has 5 bytes, it ends at"):
        open_entry(entries[0])
    with pytest.raises(VideoError, match="is empty"):
        open_entry(TarMember(str(shards / "train-001.tar"), "a.mp4", 512, 0))


def test_bad_shards(shards: Path, clips: Path) -> None:
    whole = (shards / "train-000.tar").read_bytes()
    for name, data, message in (
        ("cut.tar", whole[: len(whole) // 2], "not a whole, uncompressed tar file"),
        ("text.tar", b"no tar file at all" * 100, "not a whole, uncompressed tar file"),
    ):
        (shards / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            read_annotations(shards / name)
    with tarfile.open(shards / "packed.tar", "w:gz") as shard:
        shard.add(clips / "h264.mp4", arcname="a.mp4")
    with pytest.raises(ValueError, match=r"packed.tar: not a whole, uncompressed"):
        read_annotations(shards / "packed.tar")
    with tarfile.open(shards / "texts.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ValueError, match=r"texts.tar: no videos"):
        read_annotations(shards / "texts.tar")
    with pytest.raises(ValueError, match="is a tar file: leave them out"):
        read_annotations(shards / "train-000.tar", root=shards)
    with pytest.raises(FileNotFoundError, match=r"gone.tar"):
        read_annotations(shards / "gone.tar")


def test_shards_written_by_webdataset(clips: Path, tmp_path: Path) -> None:
    writer = pytest.importorskip("webdataset").TarWriter(str(tmp_path / "a.tar"))
    with writer:
        for name in ("first", "second"):
            writer.write({"__key__": name, "mp4": (clips / "h264.mp4").read_bytes(), "json": {"label": 3}})
    entries = read_annotations(tmp_path / "a.tar")
    assert [entry.member for entry in entries] == ["first.mp4", "second.mp4"]
    assert open_entry(entries[1]).num_frames == 60
