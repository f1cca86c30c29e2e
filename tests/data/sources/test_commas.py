"""Comma-separated lists: `path,label`, and the files of Kinetics."""

from pathlib import Path

import pytest

from videomae_fast.data import VideoFile, read_annotations
from videomae_fast.data.sources.annotations import Row
from videomae_fast.data.sources.commas import csv_field, is_csv, parse_csv
from videomae_fast.data.sources.lists import read_lines

KINETICS = (
    "label,youtube_id,time_start,time_end,split\n"
    "testifying,---QUuC4vJs,84,94,validate\n"
    '"""high"" jump, men",-0abc,0,10,validate\n'
)


def parsed(text: str) -> list[tuple[str, Row]]:
    return list(parse_csv(iter(text.splitlines(keepends=True))))


def test_path_and_label() -> None:
    text = 'a b.mp4,3\n"a, ""b"".mp4", 4 \r\n\n  \nc.mp4,riding a bike\nd.mp4,"to, from"\ne.mp4,-1\nf.mp4,3 legs\n'
    assert [row for _, row in parsed(text)] == [
        *(Row("a b.mp4", label=3), Row('a, "b".mp4', label=4), Row("c.mp4", class_name="riding a bike")),
        *(Row("d.mp4", class_name="to, from"), Row("e.mp4"), Row("f.mp4", class_name="3 legs")),
    ]


def test_columns_by_name() -> None:
    assert [row for _, row in parsed("id,label,path\n7,archery,a.mp4\n")] == [Row("a.mp4", class_name="archery")]
    assert parsed("path,split\na.mp4,train\n") == [("a.mp4,", Row("a.mp4"))]


def test_official_kinetics_files() -> None:
    lines = [
        ("---QUuC4vJs_000084_000094.mp4,testifying", Row("---QUuC4vJs_000084_000094.mp4", class_name="testifying")),
        ('-0abc_000000_000010.mp4,"""high"" jump, men"', Row("-0abc_000000_000010.mp4", class_name='"high" jump, men')),
    ]
    assert parsed(KINETICS) == lines
    assert parsed("".join(f"{line}\n" for line, _ in lines)) == lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.mp4,3", True),
        ("clip7, 3", True),
        ('"a, b.mp4",3', True),
        ("a.mp4,riding a bike", True),
        ("a.mp4,", True),
        ("shard.TAR,archery", True),
        ("label,youtube_id,time_start,time_end,split", True),
        ("path,label", True),
        ("a,b.mp4", False),
        ("a.mp4,b.mp4", False),
        ("clip7,archery", False),
        ("a.mp4,0,-1", False),
        ("a.mp4", False),
        ('"a"b,3', False),
    ],
)
def test_lines_that_look_like_it(line: str, expected: bool) -> None:
    assert is_csv(line) == expected


@pytest.mark.parametrize("text", ["a.mp4", "a b", "a,b", 'a"b', " a", "a\n", "a\r\nb", "", "\ufeffa", "a\\b", "\udcff"])
def test_a_written_field_is_read_back(text: str) -> None:
    assert (csv_field(text) == text) == (text in ("a.mp4", "a b", "", "a\\b"))
    if text:
        assert [row.path for _, row in parsed(f"{csv_field(text)},3\n")] == [text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,3\nb.mp4\n", r"list.csv:2: expected 'path,label', got 'b.mp4': a field with a comma stands in"),
        ("a.mp4,3\n\na,b.mp4,3\n", r"list.csv:3: expected 'path,label', got 'a,b.mp4,3'"),
        ('a.mp4,3\n"b.mp4,3\n', r"list.csv:2: no comma-separated values \(unexpected end of data\)"),
        ('a.mp4,3\n"b"c.mp4,3\n', r"list.csv:2: no comma-separated values \(',' expected"),
        (f"a.mp4,3\nb.mp4,{'9' * 19}\n", r"list.csv:2: a label must have at most 18 digits"),
        ("a.mp4,3\n,3\n", r"list.csv:2: the path is empty in ',3'"),
        ("a.mp4,3\n" * 1000 + "b\0,3\n", r"list.csv:1001: a path cannot hold a NUL character, got"),
        ("label,youtube_id,time_start,time_end\nx,id,1.5,10\n", r"list.csv:2: .* times in whole seconds, got 'id,1.5"),
        (
            "label,youtube_id,time_start,time_end\nx,id,1\n",
            r"list.csv:2: expected 'label,youtube_id,time_start,time_end",
        ),
        ("a.mp4,3\n" + "b" * 200_000 + ",3\n", r"list.csv:2: no comma-separated values \(field larger than"),
        ("label,youtube_id,time_start,time_end\n", r"list.csv has no entries"),
    ],
    ids=range(11),
)
def test_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(tmp_path / "list.csv", list_format="csv")
    assert len(str(error.value)) < 700


def test_a_list_is_read_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "-0abc_000000_000010.mp4").touch()
    (tmp_path / "list.csv").write_text(KINETICS)
    _, lines = read_lines(tmp_path / "list.csv")
    assert lines == [
        (",testifying", VideoFile("---QUuC4vJs_000084_000094.mp4")),
        (',"""high"" jump, men"', VideoFile("-0abc_000000_000010.mp4")),
    ]
    (tmp_path / "list.csv").write_text("path,label\n-0abc_000000_000010.mp4,1\nclip7,archery\n")
    with pytest.raises(ValueError, match=r"the list is csv, .* its line 'clip7,archery' .* give list_format='csv'"):
        read_lines(tmp_path / "list.csv")
    assert read_lines(tmp_path / "list.csv", list_format="csv")[1][1] == (",archery", VideoFile("clip7"))
