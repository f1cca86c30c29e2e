"""JSON from strangers."""

import json
import os
from pathlib import Path

import pytest

from videomae_fast._json import parse_json, parse_json_list, read_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' comes twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ("[1", "delimiter"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json() -> None:
    assert parse_json('{"a": [1, 2.5, "\\ud83c\\udfac", null, true], "b": {"a": 1}}') == {
        "a": [1, 2.5, "\U0001f3ac", None, True],
        "b": {"a": 1},
    }


@pytest.mark.parametrize("text", ["[]", " [ ]\n", '[1, {"a": [2]}]', '\t[ "x" ,\r\nnull\n] ', "[[1, 2], []]"])
def test_lists_item_by_item(text: str) -> None:
    assert list(parse_json_list(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "items", "message"),
    [
        ("", 0, "Expecting a list: line 1 column 1"),
        ("{}", 0, "Expecting a list"),
        ("[", 0, "Expecting value"),
        ("[1,", 1, "Expecting value"),
        ("[1,]", 1, "Expecting value"),
        ("[1", 1, r"Expecting ',' or '\]'"),
        ("[1 2]", 1, r"Expecting ',' or '\]': line 1 column 4"),
        ("[1]]", 1, "Extra data: line 1 column 4"),
        ('[1, {"a": 1, "a": 2}]', 1, "the key 'a' comes twice"),
        ("[1, NaN]", 1, "NaN is no number of JSON"),
        ("[1, " + "[" * 100_000, 1, "nested too deep"),
    ],
)
def test_what_is_no_list(text: str, items: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(parse_json_list(text))
    given = parse_json_list(text)
    assert [next(given) for _ in range(items)] == [1] * items


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("größe", encoding="utf-8")
    assert read_text(tmp_path / "a.json") == "größe"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "b.json")
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "a.json")
    others = [tmp_path]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        others += [tmp_path / "pipe", Path("/dev/zero")]
    for other in others:
        with pytest.raises(ValueError, match="not a regular file"):
            read_text(other)
