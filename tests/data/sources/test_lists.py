import gzip
import os
from pathlib import Path

import pytest

from videomae_fast.data import FrameFolder, VideoFile, read_annotations
from videomae_fast.data.sources.lists import read_lines


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A folder with three (empty) videos in `videos`, next to the folder `lists`, which is returned."""
    for name in ("a.mp4", "b c.mp4", "d.mkv"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / name).touch()
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists"


def write(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("list_format", ["auto", "v2"])
def test_v2_list(lists: Path, list_format: str) -> None:
    path = write(lists, "a.mp4 0 -1\n\n  frames/x   9601\t300 anything else\n")
    read = read_annotations(path, root=lists.parent / "videos", list_format=list_format)
    root = str(lists.parent / "videos")
    assert list(read) == [VideoFile(f"{root}/a.mp4"), FrameFolder(f"{root}/frames/x", 9601, 300)]


@pytest.mark.parametrize("list_format", ["auto", "v1"])
def test_v1_list(lists: Path, list_format: str) -> None:
    root = lists.parent / "videos"
    read = read_annotations(write(lists, "a.mp4  7\nd.mkv 3 extra\n"), root=root, list_format=list_format)
    assert list(read) == [VideoFile(f"{root}/a.mp4", 7), VideoFile(f"{root}/d.mkv", 3)]


def test_labels_are_kept(lists: Path) -> None:
    """Class numbers in the field after the numbers of a format; anything else there is no label."""
    v2 = "a.mp4 0 -1 5\nframes 3 8 +0 9\nd.mkv 0 -1\nd.mkv 0 -1 -2\nd.mkv 0 -1 name\nd.mkv 0 -1 1.5\n"
    read = read_annotations(write(lists, v2), root=lists.parent / "videos")
    assert read.has_labels and [entry.label for entry in read] == [5, 0, None, None, None, None]
    v1 = f"a.mp4 {2**40}\nd.mkv {10**18 - 1}\nd.mkv name\nd.mkv -1\n"
    read = read_annotations(write(lists, v1), root=lists.parent / "videos", list_format="v1")
    assert [entry.label for entry in read] == [2**40, 10**18 - 1, None, None]
    unlabelled = read_annotations(write(lists, "a.mp4 0 -1\nd.mkv 0 -1 x\n"), root=lists.parent / "videos")
    assert not unlabelled.has_labels and [entry.label for entry in unlabelled] == [None, None]


def test_the_rest_of_a_line_comes_with_its_entry(lists: Path) -> None:
    path = write(lists, "a.mp4  7 x\n\nframes 2\n")
    assert read_lines(path, lists.parent / "videos") == (
        lists.parent / "videos",
        [("  7 x", VideoFile("a.mp4", 7)), (" 2", VideoFile("frames", 2))],
    )


def test_list_of_paths_may_have_spaces_after_the_first_line(lists: Path) -> None:
    read = read_annotations(write(lists, "a.mp4\nb c.mp4\n"), root=lists.parent / "videos")
    assert [Path(entry.path).name for entry in read] == ["a.mp4", "b c.mp4"]


def test_root_is_the_folder_of_the_list_and_absolute_paths_stay(lists: Path) -> None:
    absolute = lists.parent / "videos" / "d.mkv"
    (lists / "here.mp4").touch()
    read = read_annotations(write(lists, f"here.mp4\n{absolute}\n"))
    assert [entry.path for entry in read] == [str(lists / "here.mp4"), str(absolute)]


def test_wrong_root_is_an_error_but_a_few_lost_files_are_not(lists: Path) -> None:
    path = write(lists, "lost.mp4 0\na.mp4 0\n")
    assert len(read_annotations(path, root=lists.parent / "videos")) == 2
    with pytest.raises(FileNotFoundError, match=r"none of the first 2 entries .* pass the folder"):
        read_annotations(path)


def test_folder_is_searched_recursively_in_order(tmp_path: Path) -> None:
    for name in ("z.MP4", "a/2.webm", "a/1.avi", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    read = read_annotations(tmp_path)
    assert [entry.path for entry in read] == [str(tmp_path / name) for name in ("a/1.avi", "a/2.webm", "z.MP4")]
    assert all(isinstance(entry, VideoFile) for entry in read)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfcaf\xe9.mp4 0\n")
    open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"), "wb").close()
    assert os.path.exists(read_annotations(tmp_path / "list.csv")[0].path)


@pytest.mark.parametrize(
    ("text", "list_format", "message"),
    [
        ("a.mp4 0 -1\nb.mp4 0\n", "auto", r"list.csv:2: expected 'path start total' with two integers, got 'b.mp4 0'"),
        ("a.mp4 0 -1\n\nb.mp4 x -1\n", "auto", r"list.csv:3: expected 'path start total'"),
        ("a.mp4 0\nb.mp4\n", "auto", r"list.csv:2: expected 'path label', got 'b.mp4'"),
        ("a.mp4, 0, -1\n", "auto", r"list.csv:1: cannot tell the format"),
        ("a.mp4 0\n", "v2", r"list.csv:1: expected 'path start total'"),
        ("frames 0 0\n", "v2", r"list.csv:1: expected total < 0 .* or total > 0"),
        ("frames -1 5\n", "v2", r"list.csv:1: .* start >= 0"),
        ("a.mp4 --1 -1\n", "v2", r"two integers"),
        (" \n\n", "auto", r"list.csv has no entries"),
        ("a.mp4\n", "v3", r"list_format must be one of .*got 'v3'"),
    ],
)
def test_bad_lists(lists: Path, text: str, list_format: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_annotations(write(lists, text), root=lists.parent / "videos", list_format=list_format)


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no list file and no folder at .*nothing.csv"):
        read_annotations(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"no videos under .*\.mp4"):
        read_annotations(tmp_path)
    with pytest.raises(ValueError, match="is a folder: leave them out"):
        read_annotations(tmp_path, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", gzip.compress(b"a.mp4 0 -1\n"), "is no list file: it is compressed by gzip"),
        ("list.csv", "a.mp4 0 -1\n".encode("utf-16"), "is no list file: it is UTF-16"),
        ("list.csv", "a.mp4 0 -1\n".encode("utf-16-be"), "is no list file: it is binary"),
        ("list.csv", bytes(range(256)) * 10, "is no list file: it is binary"),
        ("a.mp4", b"ftyp", "is a video, no list file: name its folder"),
        ("list.csv", b"a.mp4\n" * 2000 + b"\0\n", r"list.csv:2001: a path cannot hold a NUL character"),
        ("list.csv", b"a.mp4 1\nb" + b"x" * 10**6, r"list.csv:2: expected 'path label', got 'b.{199}\.\.\.'$"),
        ("list.csv", b"a.mp4 1\nb.mp4 9" + b"9" * 18, r"list.csv:2: a label must have at most 18 digits"),
        ("list.csv", b"a.mp4 1 5\nb.mp4 9223372036854775808 5", r"list.csv:2: start and total must have at most 18"),
        ("list.csv", b'a.mp4 1\n"\\u0000" 1', r"list.csv:2: a path cannot hold a NUL character"),
    ],
    ids=range(10),
)
def test_files_that_are_no_lists(lists: Path, name: str, content: bytes, message: str) -> None:
    (lists / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(lists / name, root=lists.parent / "videos")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_or_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    for source in (tmp_path / "list.csv", "/dev/zero"):
        with pytest.raises(ValueError, match="is a pipe or device"):
            read_annotations(source)


def test_hostile_names_are_printable_in_messages(tmp_path: Path) -> None:
    hostile = tmp_path / "\x1b[2J\n\udcff"
    for source in (hostile, "a\0b", "x" * 300):
        with pytest.raises(
            FileNotFoundError, match=r"no list file and no folder at .*: name a list file.*mixture"
        ) as e:
            read_annotations(source)
        assert str(e.value).isprintable()
    hostile.mkdir()
    (hostile / "list.csv").write_text("a\x1b 1\n")
    (hostile / "empty.csv").touch()
    for source in (hostile, hostile / "list.csv", hostile / "empty.csv"):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read_annotations(source)
        assert str(error.value).isprintable() and r"\x1b[2J\n\udcff" in str(error.value)


def test_paths_in_quotes(lists: Path) -> None:
    for text in ('"b c.mp4"\n"a.mp4"\nd.mkv\n', '"b c.mp4" 0 -1\n"a.mp4" 0 -1\nd.mkv 0 -1\n'):
        read = read_annotations(write(lists, text), root=lists.parent / "videos")
        assert [Path(entry.path).name for entry in read] == ["b c.mp4", "a.mp4", "d.mkv"]


def test_a_list_is_read_for_a_new_one(lists: Path, tmp_path: Path) -> None:
    root = lists.parent / "videos"
    path = write(lists, 'a.mp4\nb c.mp4\n"d.mkv"\n"x" y.mp4\n')
    found = [("", VideoFile(name)) for name in ("a.mp4", "b c.mp4", "d.mkv", '"x" y.mp4')]
    assert read_lines(path, root)[1] == found
    (root / '"a" b\n.mp4').touch()
    assert read_lines(root)[1] == [("", VideoFile(n)) for n in sorted(('"a" b\n.mp4', "a.mp4", "b c.mp4", "d.mkv"))]
    path = write(lists, "a.mp4 3\nb.mp4 4 5\n")
    with pytest.raises(ValueError, match=r"give list_format='v1'"):
        read_lines(path, root)
    assert [rest for rest, _ in read_lines(path, root, "v1")[1]] == [" 3", " 4 5"]
