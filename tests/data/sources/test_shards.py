import os
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
    with pytest.raises(VideoError, match="damaged or not a video container") as caught:
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


BLOCK = 512


def header(name: str = "a.mp4", size: int = 0, **fields: object) -> bytes:
    """A plain header, whose size may be any number of 64 bits and more."""
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (
        b"%011o\0" % size
        if 0 <= size < 8**11
        else (b"\x80" if size > 0 else b"\xff") + (size % 2**88).to_bytes(11, "big")
    )
    return signed(block)


def signed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(**values: str) -> bytes:
    """An extended header with these records."""
    records = b""
    for key, value in values.items():
        body = f" {key}={value}\n".encode()
        length = next(n for n in range(len(body), len(body) + 9) if len(str(n)) + len(body) == n)
        records += str(length).encode() + body
    return header("x", len(records), type=b"x") + records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0")


END = bytes(2 * BLOCK)
VIDEO = header(size=BLOCK) + bytes(BLOCK)
HOSTILE = {  # the file, and what the error says
    "size of 2^63": (header(size=2**63) + END, r"a\.mp4 is said to have 9223372036854775808 bytes"),
    "size of 2^80": (header(size=2**80) + END, r"a\.mp4 is said to have"),
    "size below 0": (VIDEO + header("b.mp4", size=-BLOCK) + END, r"b\.mp4 is said to have -512 bytes|invalid"),
    "back to the start": (VIDEO + header("b.mp4", size=-3 * BLOCK) + END, r"b\.mp4 is said to have -1536|invalid"),
    "beyond the end": (
        header(size=10**6) + bytes(BLOCK),
        r"a\.mp4 is said to have 1000000 bytes from byte 512 of 1024",
    ),
    "another file beyond the end": (VIDEO + header("b.txt", size=2**70), r"b\.txt is said to have"),
    "pax size": (pax(size=str(2**64)) + header() + END, r"a\.mp4 is said to have 18446744073709551616 bytes"),
    "pax size below 0": (pax(size="-1024") + header() + END, r"a\.mp4 is said to have -1024 bytes|invalid"),
    "pax header beyond memory": (
        header("x", 2**50, type=b"x") + END,
        r"a header of 1125899906842\d+ bytes at byte 512",
    ),
    "pax header below 0": (header("x", -BLOCK, type=b"x") + END, r"a header of|invalid"),
    "long name beyond memory": (header("x", 2**63, type=b"L") + END, r"a header of"),
    "headers of headers": (header("x", 0, type=b"x") * 3000 + VIDEO + END, "recursion"),
    "sparse": (signed(bytearray(header(size=BLOCK, type=b"S"))) + bytes(BLOCK) + END, r"a\.mp4 is stored as a sparse"),
    "sparse by pax": (
        pax(**{"GNU.sparse.major": "0", "GNU.sparse.map": "0,512"}) + VIDEO + END,
        r"a\.mp4 is stored as a sparse",
    ),
    "a damaged header": (VIDEO + b"?" + header("b.mp4")[1:] + END + VIDEO, "the header at byte 1024 is damaged"),
    "half a header": (VIDEO + header("b.mp4")[:300], "the header at byte 1024 is damaged"),
    "terminal escapes": (header("\x1b[2J\n.mp4", size=2**63) + END, r"\\x1b\[2J\\n\.mp4 is said"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.tar: not a whole, uncompressed tar file \(.*({message})") as caught:
        read_annotations(tmp_path / "x.tar")
    assert str(caught.value).isprintable()


def test_names_of_any_kind_are_kept_and_links_are_no_videos(tmp_path: Path) -> None:
    odd = ["/abs.mp4", "//abs.mp4", "../up.mp4", "C:\\x.mp4", "a\0b.mp4", "new\nline.mp4", "x" * 300 + ".mp4"]
    parts = [pax(path=name) + VIDEO for name in odd]
    others = [header(f"{kind}.mp4", type=kind.encode(), linkname="/etc/passwd") for kind in "123456"]
    (tmp_path / "x.tar").write_bytes(b"".join([*others, *parts, END]))
    assert [entry.member for entry in read_annotations(tmp_path / "x.tar")] == odd


def test_a_tar_file_without_the_mark_of_its_end(tmp_path: Path) -> None:
    for end in (b"", bytes(BLOCK), bytes(20 * BLOCK)):
        (tmp_path / "x.tar").write_bytes(VIDEO + end)
        assert len(read_annotations(tmp_path / "x.tar")) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    (tmp_path / "list.txt").write_text("x.tar\n")
    for source in (tmp_path, tmp_path / "list.txt", tmp_path / "x.tar"):  # in a folder, in a list, by name
        with pytest.raises(ValueError, match=r"x\.tar: not a regular file"):
            read_annotations(source)


def test_many_members_are_not_kept(tmp_path: Path) -> None:
    count = 5000
    (tmp_path / "x.tar").write_bytes(b"".join(header(f"{number}.txt") for number in range(count)) + VIDEO + END)
    kept = []
    clear = tarfile.TarFile.next

    def counted(shard: tarfile.TarFile) -> tarfile.TarInfo | None:
        kept.append(len(shard.members))
        return clear(shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile.TarFile, "next", counted)
        assert len(read_annotations(tmp_path / "x.tar")) == 1
    assert len(kept) > count and max(kept) <= 1
