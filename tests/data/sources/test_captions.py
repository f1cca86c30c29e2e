"""Captions in lists, tar files and mixtures: what is read, how it is kept, and what is refused."""

import io
import json
import math
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import examples
from videomae_fast.data import (
    CaptionedEntry,
    CaptionedVideos,
    FrameFolder,
    TarMember,
    VideoFile,
    read_captions,
    read_mixture,
    split_kinds,
)

HEADER = "path\tstart\tend\tcaption\tcaption\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b c.mp4", "d.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


def entries(videos: CaptionedVideos) -> list[CaptionedEntry]:
    return [videos.captioned(index) for index in range(len(videos))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.tsv",
            HEADER + 'a.mp4\t1.5\t3\ta dog, running\t\n\nb c.mp4\t\t7\t"a ""cat"""\t two\u2003 cats \n'
            "d.jpg\t\t\té\t\n",
        ),
        (
            "list.csv",
            'caption,path,end,start,caption\n"a dog, running",a.mp4,3,1.5,\n"a ""cat""",b c.mp4,7,,"two\ncats"\n'
            "é,d.jpg,,,\n",
        ),
        (
            "list.JSONL",
            '{"path": "a.mp4", "start": 1.5, "end": 3, "caption": "a dog,  running"}\n\n'
            '{"path": "b c.mp4", "start": null, "end": 7, "caption": ["a \\"cat\\"", "two cats"]}\n'
            '{"path": "d.jpg", "caption": "\\u00e9"}\n',
        ),
    ],
)  # fmt: skip
def test_every_format_holds_the_same(name: str, text: str, folder: Path) -> None:
    videos = read_captions(write(folder, name, text))
    assert entries(videos) == [
        CaptionedEntry(VideoFile(str(folder / "a.mp4")), ("a dog, running",), 1.5, 3),
        CaptionedEntry(VideoFile(str(folder / "b c.mp4")), ('a "cat"', "two cats"), 0, 7),
        CaptionedEntry(VideoFile(str(folder / "d.jpg")), ("é",), 0, math.inf),
    ]
    assert videos.is_image.tolist() == [False, False, True] == [entry.is_image for entry in entries(videos)]
    assert videos.num_captions.tolist() == [1, 2, 1] and videos[1] == VideoFile(str(folder / "b c.mp4"))
    assert videos.captioned(-1) == videos.captioned(2)
    with pytest.raises(IndexError, match="index 3 is out of range for 3"):
        videos.captioned(3)


def test_root_and_first_lines(folder: Path) -> None:
    (folder / "lists").mkdir()
    path = write(folder / "lists", "list.csv", "\ufeffpath,caption\r\na.mp4,one\r\n")
    assert entries(read_captions(path, folder)) == [CaptionedEntry(VideoFile(str(folder / "a.mp4")), ("one",))]
    with pytest.raises(FileNotFoundError, match=r"none of the first 1 entries of .*list.csv exists under root="):
        read_captions(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.tsv", HEADER + "a.mp4\t\t\tx\t\nb\t\t\t \t\n", "l.tsv:3: the caption is empty in 'b"),
        ("l.tsv", HEADER + "a.mp4\t\t\t\tx\n", "l.tsv:2: the caption is empty"),
        ("l.tsv", HEADER + "\t\t\tx\t\n", "l.tsv:2: the path is empty"),
        ("l.tsv", HEADER + "a.mp4\t3\t3\tx\t\n", "l.tsv:2: start must be before end, got 3 and 3"),
        ("l.tsv", HEADER + "a.mp4\t-1\t3\tx\t\n", "l.tsv:2: start must be seconds, such as 12 or 12.5, got '-1'"),
        ("l.tsv", HEADER + "a.mp4\t\tnan\tx\t\n", "l.tsv:2: end must be seconds"),
        ("l.tsv", HEADER + "a.mp4\t\t\tx\n", r"l.tsv:2: expected 5 fields \(path, .*, caption\), got 4"),
        ("l.tsv", HEADER + 'a.mp4\t\t\t"x\t\n', "l.tsv:2: no separated values .* ends with one"),
        ("l.tsv", HEADER + "a.tar\t\t\tx\t\n", "l.tsv:2: a tar file has its captions inside"),
        ("l.tsv", HEADER + "d.JPG\t1\t\tx\t\n", "l.tsv:2: an image has no start and end"),
        ("l.tsv", HEADER + "a\0.mp4\t\t\tx\t\n", "it is binary"),
        ("l.tsv", HEADER, "l.tsv has no entries"),
        ("l.tsv", HEADER.encode() + b"a.mp4\t\t\t\xff\t\n", "l.tsv:2: the caption is no text in UTF-8"),
        ("l.tsv", f"{HEADER}a.mp4\t\t\t{'x' * 70_000}\t\n", "l.tsv:2: a caption has at most 65536 .*, got 70000"),
        ("l.csv", "path,text\na.mp4,x\n", "l.csv:1: the first line must name the columns.* the unknown column 'text'"),
        ("l.csv", "path,start\na.mp4,x\n", "l.csv:1: .* no column 'path' or 'caption'"),
        ("l.csv", "path,path,caption\na.mp4,x\n", "l.csv:1: the column 'path' comes twice"),
        ("l.csv", "a.mp4,x\n", "l.csv:1: .* the unknown column 'a.mp4'"),
        ("l.jsonl", '{"path": "a.mp4", "caption": "x", "label": 3}\n', "l.jsonl:1: unknown column 'label'; known are"),
        ("l.jsonl", '{"path": "a.mp4"}\n', "l.jsonl:1: caption must be a text or a list of texts, at least one"),
        ("l.jsonl", '{"path": "a.mp4", "caption": []}\n', "l.jsonl:1: caption must be a text or"),
        ("l.jsonl", '{"path": "a.mp4", "caption": ["x", ""]}\n', "l.jsonl:1: the caption is empty"),
        ("l.jsonl", '{"caption": "x"}\n', "l.jsonl:1: path must be a text"),
        ("l.jsonl", '{"path": "\\ud800", "caption": "x"}\n', "l.jsonl:1: no file can have this name"),
        ("l.jsonl", '{"path": "a.mp4", "caption": "\\ud800"}\n', "l.jsonl:1: the caption is no text"),
        ("l.jsonl", '{"path": "a.mp4", "caption": "x", "end": true}\n', "l.jsonl:1: end must be seconds, at least 0"),
        ("l.jsonl", '{"path": "a.mp4", "caption": "x", "end": 1e400}\n', "l.jsonl:1: end must be seconds"),
        ("l.jsonl", '{"path": "a.mp4", "path": "b", "caption": "x"}\n', "l.jsonl:1: the key 'path' comes twice"),
        ("l.jsonl", "[" * 100_000, "l.jsonl:1: .*nested too deep"),
        ("l.jsonl", "[1]\n", "l.jsonl:1: expected a JSON object"),
        ("l.txt", "a.mp4 x\n", r"expected a list of .* captions \(.tsv, .csv, .jsonl\).*got .*l.txt"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(name: str, text: str | bytes, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_captions(write(folder, name, text))
    assert name in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_what_is_no_source(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at .*gone.tsv: name a list of videos"):
        read_captions(folder / "gone.tsv")
    with pytest.raises(FileNotFoundError):
        read_captions(folder / "gone.tar")
    with pytest.raises(ValueError, match="no tar files under"):
        read_captions(folder)
    with pytest.raises(ValueError, match=r"root is for lists, but .* is a folder"):
        read_captions(folder, folder)
    os.mkfifo(folder / "pipe.tsv")
    with pytest.raises(ValueError, match="is a pipe or device"):
        read_captions(folder / "pipe.tsv")


def test_tar_files(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    first = {"x/a.mp4": b"video", "x/a.txt": b" a dog\nruns ", "b.txt": b"a cat", "b.WEBP": b"image"}
    first |= {"x/a.json": b'{"caption": "not read"}', "x/a.cls": b"7"}
    second = {"c.d.webm": b"film", "c.d.json": json.dumps({"caption": ["é", "f"], "url": 3}).encode()}
    tar(tmp_path / "0.tar", first), tar(tmp_path / "more" / "1.tar", second)
    videos = read_captions(tmp_path)
    assert [entry.captions for entry in entries(videos)] == [("a dog runs",), ("a cat",), ("é", "f")]
    assert videos.is_image.tolist() == [False, True, False]
    expected = [(tmp_path / "0.tar", b"video"), (tmp_path / "0.tar", b"image"), (tmp_path / "more" / "1.tar", b"film")]
    for video, (path, data) in zip(videos, expected, strict=True):
        assert isinstance(video, TarMember) and video.path == str(path)
        assert path.read_bytes()[video.start : video.start + video.size] == data
    assert entries(read_captions(tmp_path / "0.tar")) == entries(videos)[:2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.mp4": b"v"}, "x.tar: a.mp4 has no caption: expected a.txt or a.json"),
        ({"a.mp4": b"v", "a.txt": b"x", "b.txt": b"y"}, "x.tar: the caption b.txt has no video and no image"),
        ({"a.mp4": b"v", "a.jpg": b"v", "a.txt": b"x"}, "x.tar: a.mp4 and a.jpg have one caption file"),
        ({"a.mp4": b"v", "a.txt": b" \n"}, "x.tar/a.txt: the caption is empty"),
        ({"a.mp4": b"v", "a.txt": b"\xff"}, "x.tar/a.txt: the caption is no text in UTF-8"),
        ({"a.mp4": b"v", "a.txt": b"x" * (2**20 + 1)}, "x.tar/a.txt: it has 1048577 bytes, more than 1048576"),
        ({"a.mp4": b"v", "a.json": b"[]"}, 'x.tar/a.json: expected a JSON object with "caption"'),
        ({"a.mp4": b"v", "a.json": b'{"text": "x"}'}, "x.tar/a.json: caption must be a text or a list"),
        ({"a.cls": b"3"}, "x.tar: no videos among the files of this tar file"),
    ],
)  # fmt: skip
def test_bad_tar_files(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_captions(tar(tmp_path / "x.tar", files))
    assert str(caught.value).isprintable()


def test_kinds_and_fingerprints(folder: Path) -> None:
    made = [
        CaptionedEntry(VideoFile("a.mp4"), ("one", "zwei é")),
        CaptionedEntry(VideoFile("b.jpg"), ("three",)),
        CaptionedEntry(TarMember("x.tar", "c.png", 512, 7), ("four", "five", "six")),
        CaptionedEntry(FrameFolder("d.jpg", 1, 8), ("seven",), 1, 2.5),
    ]
    videos = CaptionedVideos(made)
    assert entries(videos) == made
    assert entries(videos.of_kind(images=True)) == made[1:3] and entries(videos.of_kind(images=False)) == made[::3]
    assert len(CaptionedVideos(made[1:3]).of_kind(images=False)) == 0
    same = CaptionedVideos(made).fingerprint()
    changes = [("captions", ("one", "zwei")), ("captions", ("onezwei é",)), ("start", 0.5), ("end", 9.0)]
    others = [CaptionedVideos([made[0]._replace(**{name: value}), *made[1:]]) for name, value in changes]
    assert videos.fingerprint() == same and len({same, *(other.fingerprint() for other in others)}) == 5


@pytest.mark.parametrize(
    "change", [{"captions": ()}, {"captions": ("x", "")}, {"start": -1.0}, {"start": 2.0, "end": 2.0}]
)
def test_entries_are_checked(change: dict) -> None:
    good = CaptionedEntry(VideoFile("a.mp4"), ("x",))
    with pytest.raises(ValueError, match=r"a.mp4 needs captions, none of them empty, and 0 <= start < end"):
        CaptionedVideos([good, good._replace(**change)])


def test_captions_are_flat() -> None:
    """No Python object for an entry: what pickles to a worker is the arrays."""
    videos = CaptionedVideos(CaptionedEntry(VideoFile(f"{i}.mp4"), ("a dog", "a cat")) for i in range(1000))
    assert len(pickle.dumps(videos)) < 130 * 1000


def test_mixtures(folder: Path) -> None:
    write(folder, "one.csv", "path,caption\na.mp4,x\nd.jpg,y\n")
    write(folder, "two.jsonl", '{"path": "b c.mp4", "caption": "z"}\n')
    path = write(folder, "m.json", json.dumps([{"data": "one.csv"}, {"data": "two.jsonl", "weight": 3}]))
    mixture = read_mixture(path, captioned=True)
    assert mixture.is_captioned and [mixture.captioned(index).captions for index in range(3)] == [
        ("x",),
        ("y",),
        ("z",),
    ]
    videos, images = split_kinds(mixture)
    assert videos is not None and images is not None
    assert [len(videos), videos.epoch_length, len(images), images.epoch_length] == [2, 4, 1, 1]
    assert [videos.captioned(index).captions for index in range(2)] == [("x",), ("z",)]
    assert split_kinds(read_mixture(folder / "two.jsonl", captioned=True)).images is None
    with pytest.raises(ValueError, match="annotations must have captions"):
        split_kinds(read_mixture(write(folder, "l.txt", "a.mp4\n")))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"format": "csv"}, {}, "m.json, source 1: the suffix of a list of captions is its format"),
        ({"classes": "c.txt"}, {}, 'm.json, source 1: videos with captions have no "classes"'),
        ({}, {"labelled": True}, "labelled and captioned are for two kinds of lists"),
    ],
)
def test_mixture_errors(given: dict, options: dict, message: str, folder: Path) -> None:
    write(folder, "one.csv", "path,caption\na.mp4,x\n")
    path = write(folder, "m.json", json.dumps([{"data": "one.csv", **given}]))
    with pytest.raises(ValueError, match=message):
        read_mixture(path, captioned=True, **options)


TOKENS = st.sampled_from(
    [
        *(b"\n", b"\r", b" ", b"\t", b",", b'"', b"\\", b"\0", b"a.mp4", b"d.jpg", b"0", b"-1", b"7.5", b"9" * 20),
        *(b"{", b"}", b"[", b"]", b":", b'"path"', b'"caption"', b'"start"', b"x", b"nan", b"\\ud800", b"\x1b[2J"),
        *(b"\xff", b".tar", "\u2028".encode(), b"path", b"caption", b"start", b"end"),
    ]
)  # fmt: skip
OBJECTS = st.dictionaries(
    st.sampled_from(["path", "caption", "start", "end", "x"]),
    st.sampled_from(["a.mp4", "d.jpg", "x.tar", "", "\0", "\ud800", 0, 3, -1, 10**400, 1e308, True, None])
    | st.sampled_from([["a", "b"], [], [3]])
    | st.text(max_size=6),
)  # fmt: skip
FIELD = st.sampled_from(["a.mp4", "b c.mp4", "d.jpg", "", "0", "1.5", "9", "x", '"x, y"', '"x""y"', '"', "é"])
TABLE = st.tuples(
    st.sampled_from(["path,caption", "path,start,end,caption", "caption,path,caption", "path"]),
    st.lists(st.lists(FIELD, min_size=1, max_size=5).map(",".join), max_size=4),
).map(lambda t: "\n".join([t[0], *t[1]]))
TEXTS = (
    st.lists(TOKENS, max_size=30).map(b"".join)
    | st.lists(OBJECTS.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode())
    | TABLE.map(str.encode)
    | TABLE.map(lambda text: text.replace(",", "\t").encode())
    | st.binary(max_size=200)
)


@examples(400, 5000)
@given(text=TEXTS, suffix=st.sampled_from([".tsv", ".csv", ".jsonl"]))
def test_any_bytes_are_captions_or_an_error(folder: Path, text: bytes, suffix: str) -> None:
    path = write(folder, f"list{suffix}", text)
    try:
        read = read_captions(path)
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError)
        assert f"list{suffix}" in str(error) and str(error).isprintable()
        return
    found = entries(read)
    assert found
    for entry in found:
        assert entry.captions and all(text and text == " ".join(text.split()) for text in entry.captions)
        assert 0 <= entry.start < entry.end and "\0" not in entry.video.path and os.fsencode(entry.video.path)
    lines = [{"path": os.path.relpath(e.video.path, folder), "caption": e.captions, "start": e.start} for e in found]
    ends = [{} if e.end == math.inf else {"end": e.end} for e in found]
    again = "".join(json.dumps({**line, **end}) + "\n" for line, end in zip(lines, ends, strict=True))
    if all(line["path"] != "." for line in lines) and not any(
        "/.." in e.video.path or "//" in e.video.path for e in found
    ):
        written = entries(read_captions(write(folder, "again.jsonl", again)))
        assert [(e.captions, e.start, e.end) for e in written] == [(e.captions, e.start, e.end) for e in found]


@examples(100, 2000)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".txt", ".json"]))
def test_any_bytes_beside_a_video_are_captions_or_an_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    try:
        (entry,) = entries(read_captions(tar(tmp_path / "x.tar", {"a.mp4": b"v", f"a{suffix}": data})))
    except ValueError as error:
        assert type(error) is ValueError and f"x.tar/a{suffix}: " in str(error) and str(error).isprintable()
        return
    assert entry.captions and all(entry.captions)
