"""Random lists and mixtures: the right videos, or an error that names the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fuzz import examples
from videomae_fast.data import FrameFolder, VideoFile, read_annotations, read_mixture
from videomae_fast.data.sources.lines import format_line
from videomae_fast.data.sources.lists import read_lines

# A file's name is any bytes but "/" and NUL; most are drawn to be hostile.
HOSTILE = st.sampled_from(
    [*"\n\r\t\v\f \"'\\,;=+-@{}[]%:.0123456789aé", *"\x1b\x1c\x85\xa0\u2028\u202e\ufeff\U0001f3ac"]
)
HOSTILE_NAMES = st.lists(HOSTILE, min_size=1, max_size=8).map("".join)
NAME_BYTES = st.binary(min_size=1, max_size=12) | (
    HOSTILE_NAMES | HOSTILE_NAMES.map('"{}"'.format) | HOSTILE_NAMES.map('"a" {}'.format)
).map(str.encode)
NAMES = NAME_BYTES.map(lambda name: os.fsdecode(name.translate(bytes(range(256)), b"\0")).strip("/")).filter(
    lambda name: name and name not in (".", "..") and not name.endswith(".tar")
)
NUMBERS = st.integers(0, 10**18 - 1)
TOKENS = st.sampled_from(
    [
        *(b"\n", b"\r", b" ", b"\t", b'"', b"\\", b"\0", b"a.mp4", b"frames", b"0", b"-1", b"7", b"9" * 19, b"\\u0000"),
        *(b"\\ud800", b'"a.mp4"', b'"a b" 3', b"\xff", "\u2028".encode(), b"\xef\xbb\xbf", b"x.tar", b".", b"/"),
    ]
)
PATHS = [
    r'"\u0000"',
    r'"\ud800"',
    r'"\udcff"',
    '"a b"',
    '"a" b',
    '"a"b',
    '"a.mp4"',
    "a.mp4",
    "frames",
    "b c",
    '""',
    '"\\"a\\" b"',
    ".",
]
LINES = st.tuples(
    st.sampled_from(PATHS),
    st.sampled_from(["", " 3", " 0 -1", " 3 -1 7", " 5 6", " -1 5", " x", f" {9**20}", ",3", ",x", ",", ',"x, y"']),
)
FIRST = st.sampled_from(["a.mp4", "a.mp4 1", "a.mp4 0 -1", "a.mp4,1", "a.mp4 x", "label,path", "a.mp4,x"])
TEXTS = (
    st.lists(TOKENS, max_size=30).map(b"".join)
    | st.tuples(FIRST, st.lists(LINES.map("".join), max_size=4)).map(lambda t: "\n".join([t[0], *t[1]]).encode())
    | st.binary(max_size=200)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "frames").mkdir()
    return tmp_path


@examples(500, 5000)
@given(text=TEXTS, list_format=st.sampled_from(["auto", "auto", "v2", "v1", "frames", "csv", "paths"]))
def test_any_bytes_are_a_list_or_an_error(folder: Path, text: bytes, list_format: str) -> None:
    path = folder / "list.csv"
    path.write_bytes(text)
    try:
        read = read_annotations(path, list_format=list_format)
    except (ValueError, FileNotFoundError) as error:
        named = "list.csv" in str(error) or "x.tar" in str(error)
        assert type(error) in (ValueError, FileNotFoundError) and named and str(error).isprintable()
        return
    entries = list(read)
    assert entries and all("\0" not in entry.path and os.fsencode(entry.path) for entry in entries)
    # Written again, the list holds the same videos.
    try:
        _, lines = read_lines(path, list_format=list_format)
    except ValueError as error:
        assert list_format == "auto" and "give list_format=" in str(error)
        return
    again = "".join(f"{format_line(entry.path, rest)}\n" for rest, entry in lines)
    path.write_text(again, encoding="utf-8", errors="surrogateescape")
    assert list(read_annotations(path, list_format=list_format)) == entries


@examples(300, 5000)
@given(text=TEXTS, list_format=st.sampled_from(["auto", "auto", "v2", "v1", "frames", "csv"]))
def test_any_bytes_have_labels_or_are_an_error(folder: Path, text: bytes, list_format: str) -> None:
    path = folder / "list.csv"
    path.write_bytes(text)
    try:
        read = read_annotations(path, list_format=list_format, labelled=True)
    except (ValueError, FileNotFoundError) as error:
        named = "list.csv" in str(error) or "x.tar" in str(error) or str(folder) in str(error)
        assert type(error) in (ValueError, FileNotFoundError) and named and str(error).isprintable()
        return
    assert read.labels.min() >= 0 and all(entry.label is not None for entry in read)
    if read.class_names:
        assert sorted(set(read.labels.tolist())) == [*range(len(read.class_names))]
        assert sorted(set(read.class_names)) == list(read.class_names) and all(read.class_names)


@examples(200, 5000)
@given(names=st.lists(NAMES, min_size=1, max_size=5), numbers=st.tuples(NUMBERS, st.integers(1, 10**18 - 1), NUMBERS))
def test_any_names_come_back_from_a_written_list(
    tmp_path: Path, names: list[str], numbers: tuple[int, int, int]
) -> None:
    start, total, label = numbers
    for rest, entry in (
        ("", VideoFile("")),
        (f" {label}", VideoFile("", label)),
        (" 0 -1", VideoFile("")),
        (f" {start} {total} {label}", FrameFolder("", start, total, label)),
        (f",{label}", VideoFile("", label)),
        (",", VideoFile("")),
        (',"high jump, ""men"""', VideoFile("")),
    ):
        lines = [format_line(name, rest) for name in (".", *names)]  # the first one exists
        text = "".join(f"{line}\n" for line in lines)
        (tmp_path / "list.txt").write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        list_format = "csv" if rest.startswith(",") else "auto"
        assert read_lines(tmp_path / "list.txt", list_format=list_format)[1][1:] == [
            (rest, entry._replace(path=name)) for name in names
        ]


@examples(100, 2000)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_any_names_of_files_in_a_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("videos")
    names = [name.replace("/", "") + ".mp4" for name in names]
    try:
        for name in names:
            (folder / name).touch()
    except OSError:
        assume(False)  # this file system does not take it
    found = list(read_annotations(folder))
    _, lines = read_lines(folder)
    (folder / "list.txt").write_text("".join(f"{format_line(entry.path, rest)}\n" for rest, entry in lines))
    assert list(read_annotations(folder / "list.txt")) == found and len(found) == len(set(names))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
SOURCES = st.sampled_from(["a.mp4", "frames", "list.csv", ".", "\0", "gone", "\ud800", "x" * 300, "mixture.json"])
KEYS = {
    "root": SOURCES,
    "format": st.sampled_from(["auto", "v1", "v2", "paths", "v3", "\x1b"]),
    "weight": st.sampled_from([1, 0.5, 0, -1, 10**12, 10**400, 1e308, 5e-324]) | st.floats() | st.integers(),
    "frame_stride": st.sampled_from([1, 0, -1, 2**31, 2**63, 10**400]) | st.integers(),
    "template": st.sampled_from(["{}", "{:05}", "{:9999999999}", "{0.__class__}", "{:{}}", "../{}"])
    | st.text(max_size=8),
}
SOURCE = st.fixed_dictionaries({"data": SOURCES}, optional={key: value | JSON for key, value in KEYS.items()})
MIXTURES: st.SearchStrategy[Any] = st.lists(SOURCE | SOURCE | JSON, max_size=3) | JSON
JSON_TOKENS = st.lists(
    st.sampled_from([*'[]{},:"', '"data"', '"."', "1", "1e999", "-", "NaN", "\\", "\ufeff", " "]), max_size=30
)


@examples(200, 5000)
@given(
    text=MIXTURES.map(lambda mixture: json.dumps(mixture).encode())
    | JSON_TOKENS.map(lambda t: "".join(t).encode())
    | TEXTS
)
def test_any_bytes_are_a_mixture_or_an_error(folder: Path, text: bytes) -> None:
    (folder / "list.csv").write_text("a.mp4 0 -1\nframes 0 3 4\n")
    (folder / "mixture.json").write_bytes(text)
    try:
        mixture = read_mixture(folder / "mixture.json")
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError) and str(error).isprintable()
        assert "mixture.json" in str(error) or str(error).startswith("an epoch may have")
        return
    listed = json.loads(text)
    assert [source.weight for source in mixture.sources] == [source.get("weight", 1) for source in listed]
    assert len(list(mixture)) == len(mixture) and mixture.fingerprint()
    if mixture.epoch_length < 10_000:
        assert len(mixture.order(0, 3)) == mixture.epoch_length
    for source in mixture.sources:
        assert len(source.template.format(10**18)) < 300
