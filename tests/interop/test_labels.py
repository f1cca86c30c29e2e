"""Names of classes, and rows of a head by these names."""

import json
import re
from pathlib import Path

import pytest

from videomae_fast.interop import (
    CheckpointError,
    class_names_beside,
    head_rows,
    lists_rows,
    read_head_rows,
    read_merged_names,
)

K710 = ["riding a bike", "hugging (not baby)", "picking apples", "yoga", "tai chi"]


def test_names_beside_weights(tmp_path: Path) -> None:
    """Of transformers, or else of a run of ours; none that were made up."""
    weights = tmp_path / "model.safetensors"
    assert class_names_beside(weights) == class_names_beside(tmp_path) == ()
    (tmp_path / "classes.json").write_text(json.dumps(K710))
    assert class_names_beside(weights) == class_names_beside(tmp_path) == tuple(K710)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "b", "0": "a"}}))
    assert class_names_beside(weights) == ("a", "b")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert class_names_beside(weights) == ()
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "a", "2": "b"}}))
    with pytest.raises(CheckpointError, match="does not name classes 0 to 1, one each"):
        class_names_beside(weights)


def test_damaged_names_beside_weights(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["yoga", "yoga"]')
    with pytest.raises(ValueError, match=r"classes.json:2: 'yoga' comes twice"):
        class_names_beside(tmp_path)


@pytest.mark.parametrize(
    "name, text, rows",
    [
        ("a.json", "[2, 0]", True),
        ("a.json", "[1, -2.5]", True),
        ("a.json", '["a", "b"]', False),
        ("a.json", "[]", False),
        ("a.json", "[", False),
        ("a.txt", "1\n2\n", False),
        ("gone.json", None, False),
    ],
)
def test_rows_or_names(name: str, text: str | None, rows: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert lists_rows(tmp_path / name) is rows


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_head_rows, read_merged_names):
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
