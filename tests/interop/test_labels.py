"""Names of classes, and rows of a head by these names."""

import json
import re
from pathlib import Path

import pytest

from videomae_fast.interop import head_rows, read_class_names, read_head_rows, read_merged_names

K710 = ["riding a bike", "hugging (not baby)", "picking apples", "yoga", "tai chi"]


@pytest.mark.parametrize("text", ["yoga\ntai chi\n", "yoga\r\ntai chi", "\ufeffyoga\n tai chi \n\n"])
def test_names_one_per_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert read_class_names(tmp_path / "names.txt") == ["yoga", "tai chi"]


def test_names_in_json(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps(K710))
    assert read_class_names(tmp_path / "names.json") == K710


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "", "line 1 is '', which is no name of a class"),
        ("a.txt", "yoga\n\ntai chi\n", "line 2 is '', which"),
        ("a.txt", "yoga\ntai chi\nyoga\n", "line 3 is 'yoga', as is line 1"),
        ("a.txt", b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        ("a.json", "[]", "has no names of classes"),
        ("a.json", '["yoga", 3]', "entry 2 is 3, which is no name"),
        ("a.json", '["yoga", "tai chi", "yoga"]', "entry 3 is 'yoga', as is entry 1"),
        ("a.json", '{"yoga": 1}', "must hold a list of names, got dict"),
        ("a.json", "[", "must hold a list of names, and is not JSON"),
    ],
)
def test_bad_names(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^class file '.*{name}'.*{re.escape(message)}"):
        read_class_names(tmp_path / name)


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_class_names, read_head_rows, read_merged_names):
        with pytest.raises(FileNotFoundError, match=r"nowhere.json"):
            read(tmp_path / "nowhere.json")


def test_rows_by_name() -> None:
    assert head_rows(K710, ["yoga", "riding a bike"]) == [3, 0]
    merged = {"hugging": "hugging (not baby)", "picking fruit": "picking apples", "yoga": "tai chi"}
    assert head_rows(K710, ["picking fruit", "yoga", "hugging"], merged) == [2, 3, 1]  # its own name comes first
    assert head_rows(K710, K710) == [0, 1, 2, 3, 4]


def test_rows_like_the_published_list(tmp_path: Path) -> None:
    """The list of rows of a data set is what its names give."""
    targets = ["tai chi", "riding a bike", "picking fruit"]
    (tmp_path / "label_710to3.json").write_text("[4, 0, 2]")
    (tmp_path / "merge.json").write_text('{"picking fruit": "picking apples", "hugging": "hugging (not baby)"}')
    rows = head_rows(K710, targets, read_merged_names(tmp_path / "merge.json"))
    assert rows == read_head_rows(tmp_path / "label_710to3.json")


@pytest.mark.parametrize(
    "source, target, merged, message",
    [
        (K710, ["yoga", "Tai chi"], None, "the 5 classes of the head do not have 'Tai chi'; names must be equal"),
        (K710, ["hugging"], {"hugging": "embracing"}, "do not have 'hugging'"),
        (K710, [f"class {i}" for i in range(9)], None, "'class 7', and so on (9 in all)"),
        ([*K710, "yoga"], ["yoga"], None, "source_names has the class 'yoga' twice"),
        (K710, ["yoga", "yoga"], None, "target_names has the class 'yoga' twice"),
        (K710, ["picking apples", "picking fruit"], {"picking fruit": "picking apples"}, "have the same row, 2, of"),
    ],
)
def test_names_that_give_no_rows(
    source: list[str], target: list[str], merged: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        head_rows(source, target, merged)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "must hold a list of rows, whole numbers from 0 up, found []"),
        ("[1, -2]", "found [-2]"),
        ("[1, true]", "found [True]"),
        ("[1.0]", "found [1.0]"),
        ("[3, 1, 3]", "has row 3 for two classes"),
        ('{"0": 1}', "must hold a list of rows, got dict"),
    ],
)
def test_bad_rows(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_head_rows(tmp_path / "rows.json")


@pytest.mark.parametrize("text", ["[]", '{"hugging": 3}', '{"a": "b", "a": "c"}'])
def test_bad_merged_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "merge.json").write_text(text)
    with pytest.raises(ValueError, match=r"^class file '.*merge.json' must hold an object of old and new names"):
        read_merged_names(tmp_path / "merge.json")
