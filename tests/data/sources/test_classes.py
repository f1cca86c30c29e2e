"""Class files, and the names of classes in lists, folders and tar files."""

import json
import pickle
import tarfile
from pathlib import Path

import pytest

from videomae_fast.data import Annotations, FrameFolder, TarMember, VideoFile, read_annotations, read_classes


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "riding a bike\narchery\n\u00fcben\n"),
        ("classes.txt", "\ufeffriding a bike  \r\n archery\r\n\u00fcben"),
        ("classes.csv", "riding a bike\narchery\n\u00fcben\n\n"),
        ("classes.json", '["riding a bike", "archery", "\u00fcben"]'),
    ],
)
def test_class_files(tmp_path: Path, name: str, text: str) -> None:
    assert read_classes(write(tmp_path / name, text)) == ("riding a bike", "archery", "\u00fcben")


def test_any_names_come_back_from_json(tmp_path: Path) -> None:
    names = (" a", "a", "a ", " ", "b\n", "\x1b[2J", "\udcff", "\u2028")
    assert read_classes(write(tmp_path / "classes.json", json.dumps(names))) == names


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "", r"c.txt:1: expected the name of class 0, got a blank one"),
        ("c.txt", "a\n\nb\n", r"c.txt:2: expected the name of class 1, got a blank one"),
        ("c.txt", "a\nb\na\n", r"c.txt:3: 'a' comes twice, first at 1"),
        ("c.json", '{"a": 0}', r"c.json is no file of class names: expected a list of names, got dict"),
        ("c.json", "[]", r"expected a list of names, got list"),
        ("c.json", '["a", 3]', r"expected a list of names, got list \['a', 3\]"),
        ("c.json", "[", r"c.json is no file of class names"),
        ("c.json", '["a", ""]', r"c.json:2: expected the name of class 1"),
    ],
)
def test_bad_class_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_classes(write(tmp_path / name, text))


def test_files_that_are_no_class_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no class file at .*gone"):
        read_classes(tmp_path / "gone")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9\n")
    for path in (tmp_path, tmp_path / "c.txt"):
        with pytest.raises(ValueError, match="is no file of class names"):
            read_classes(path)


def labelled(source: Path, **options: str) -> tuple[list[int | None], tuple[str, ...]]:
    read = read_annotations(source, labelled=True, **options)  # type: ignore[arg-type]
    assert read.labels.tolist() == [entry.label for entry in read]
    return [entry.label for entry in read], read.class_names


@pytest.mark.parametrize(
    ("text", "list_format"),
    [
        ('a.mp4 riding a bike\nb.mp4 archery\na.mp4 "riding a bike"\n', "auto"),
        ("a.mp4,riding a bike\nb.mp4,archery\na.mp4,riding a bike\n", "auto"),
        ("path,label\na.mp4,riding a bike\nb.mp4,archery\na.mp4,riding a bike\n", "auto"),
        ("a.mp4 0 -1 riding a bike\nb.mp4 0 -1 archery\nframes 1 8 riding  a bike\n", "auto"),
        ("frames 8 riding a bike\nframes 8 archery\nframes 7 riding a bike\n", "frames"),
    ],
)
def test_names_in_lists(tmp_path: Path, text: str, list_format: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "frames").mkdir()
    path = write(tmp_path / "list.csv", text)
    assert labelled(path, list_format=list_format) == ([1, 0, 1], ("archery", "riding a bike"))
    plain = read_annotations(path, list_format=list_format)
    assert not plain.has_labels and plain.class_names == () and plain.labels.tolist() == [-1] * 3


def test_numbers_in_lists(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for text in ("a.mp4 3\na.mp4 0 x\n", "a.mp4,3\na.mp4,0\n", "a.mp4 0 -1 3\na.mp4 0 -1 0\n"):
        assert labelled(write(tmp_path / "list.csv", text)) == ([3, 0], ())


def test_lists_of_frame_folders(tmp_path: Path) -> None:
    """`folder total label`, as published for Something-Something V2, begins with image 1."""
    (tmp_path / "frames").mkdir()
    path = write(tmp_path / "list.csv", "frames 37 5\nframes 8 0\n")
    expected = [FrameFolder(str(tmp_path / "frames"), 1, 37, 5), FrameFolder(str(tmp_path / "frames"), 1, 8, 0)]
    assert list(read_annotations(path, labelled=True)) == expected
    assert list(read_annotations(path, list_format="frames")) == expected
    for text in ("frames 0 5\n", "frames 5\n", f"frames {'9' * 19} 5\n", "frames -1 5\n"):
        with pytest.raises(ValueError, match=r"list.csv:1: expected 'path total label' with total > 0"):
            read_annotations(write(path, text), list_format="frames")


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("riding a bike/1.mp4", "archery/x/2.mp4", "archery/1.mp4", "10/a.mp4", "9/a.mp4"):
        write(tmp_path / name, "")
    labels, names = labelled(tmp_path)
    assert names == ("10", "9", "archery", "riding a bike") and labels == [0, 1, 2, 2, 3]
    assert not read_annotations(tmp_path).has_labels


def test_folders_in_tar_files_are_classes(tmp_path: Path) -> None:
    write(tmp_path / "video", "x")
    for shard, members in (("a.tar", ("./archery/1.mp4", "bike/x/2.mp4")), ("in/b.tar", ("archery/1.mp4", "2.mp4"))):
        (tmp_path / shard).parent.mkdir(exist_ok=True)
        with tarfile.open(tmp_path / shard, "w") as file:
            for member in members:
                file.add(tmp_path / "video", arcname=member)
    assert labelled(tmp_path / "a.tar") == ([0, 1], ("archery", "bike"))
    assert labelled(tmp_path) == ([0, 1, 2, 2], ("archery", "bike", "in"))  # a folder around the tar file comes first
    listed = write(tmp_path / "list.txt", "in/b.tar swimming\na.tar -1\n")
    assert labelled(listed) == ([2, 2, 0, 1], ("archery", "bike", "swimming"))
    assert labelled(write(tmp_path / "list.txt", "a.tar\n")) == ([0, 1], ("archery", "bike"))
    assert labelled(write(tmp_path / "list.txt", "a.tar 4\nin/b.tar 2\n")) == ([4, 4, 2, 2], ())
    with pytest.raises(ValueError, match=r"in/b\.tar/2\.mp4 has no class: expected a class number"):
        labelled(tmp_path / "in" / "b.tar")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.mp4 3\na.mp4 -1\n",
            r"list.csv:2: 'a.mp4 -1' has no label: expected a class number from 0 on or a class name",
        ),
        ("a.mp4,3\na.mp4,\n", r"list.csv:2: 'a.mp4,' has no label"),
        ("a.mp4\n", r"list.csv:1: 'a.mp4' has no label"),
        ("a.mp4 0 -1\n", r"list.csv:1: 'a.mp4 0 -1' has no label"),
        ("a.mp4 0 -1 5\na.mp4 0 -1\n", r"list.csv:2: 'a.mp4 0 -1' has no label"),
        ("path\na.mp4\n", r"list.csv:1: 'path' has no label"),
        ("frames 1 40\n", r"list.csv:1: 'frames 1 40' has no label"),  # of pre-training: 40 images from number 1
        ("frames 0 40\n", r"list.csv:1: 'frames 0 40' has no label"),
        ("a.mp4 3\na.mp4 archery\n", r"all numbers or all names, got both: .*a.mp4 has 3 and .*a.mp4 has 'archery'"),
        ("a.mp4 archery\na.mp4 3\n", r"got both: .*a.mp4 has 'archery' and .*a.mp4 has 3"),
    ],
)
def test_missing_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=message):
        read_annotations(write(tmp_path / "list.csv", text), labelled=True)


def test_videos_beside_the_folders_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "archery" / "1.mp4", "")
    write(tmp_path / "stray.mp4", "")
    with pytest.raises(ValueError, match=r"stray.mp4 has no class: .* a folder named like the class around it"):
        read_annotations(tmp_path, labelled=True)


def test_names_are_kept_once() -> None:
    rows = [VideoFile(f"{i:06}.mp4", i % 7) for i in range(5000)]
    plain = Annotations(rows)
    named = plain.numbered_by([f"the name of class {k}" for k in range(7)])
    assert len(pickle.dumps(named)) - len(pickle.dumps(plain)) < 500
    assert list(named) == rows and named.class_names[3] == "the name of class 3"
    assert pickle.loads(pickle.dumps(named)).class_names == named.class_names
    assert named.fingerprint() == plain.fingerprint() and plain.class_names == ()


def test_numbered_by_names(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    named = read_annotations(write(tmp_path / "list.csv", "a.mp4 b\na.mp4 a\na.mp4 d\n"), labelled=True)
    again = named.numbered_by(["x", "d", "b", "a"])
    assert again.labels.tolist() == [2, 3, 1] and named.labels.tolist() == [1, 0, 2]
    assert again.numbered_by(named.class_names).labels.tolist() == [1, 0, 2]
    message = r"a.mp4 has class 'd', which is none of the 2 classes \(the first are 'a', 'b'\)"
    with pytest.raises(ValueError, match=message):
        named.numbered_by(["a", "b"])
    numbered = Annotations([VideoFile("a.mp4", 1), TarMember("t.tar", "b.mp4", 0, 1, 2)])
    with pytest.raises(
        ValueError, match=r"t.tar/b.mp4 has class number 2: expected a number in \[0, 2\), as there are 2"
    ):
        numbered.numbered_by(["a", "b"])
    with pytest.raises(ValueError, match=r"b.mp4 has no class"):
        Annotations([VideoFile("a.mp4", 1), VideoFile("b.mp4")]).numbered_by(["a", "b"])


def test_similar_names_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "riding_a_bike" / "1.mp4", "")
    with pytest.raises(ValueError, match=r"class 'riding_a_bike', .* \(the nearest are 'riding a bike'\)"):
        read_annotations(tmp_path, labelled=True).numbered_by(["archery", "riding a bike"])
