"""Hostile names on the console and in tables."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import examples
from videomae_fast._text import printable, printable_lines, read_table, write_table

NAMES = [
    "plain.mp4",
    "with space.mp4",
    "tab\t.mp4",
    "line\nend.mp4",
    "carriage\rreturn.mp4",
    "vertical\x0bform\x0c.mp4",
    "separators\x1c\x1d\x1e\x85\u2028\u2029.mp4",
    "\x1b]0;owned\x07\x1b[2J.mp4",
    "right-to-left\u202e4pm.mp4",
    "not utf-8 \udcff\udc80.mp4",
    "back\\slash\\n.mp4",
    "'quoted'",
    '"=1+1"',
    "\uff1d1+1",
    "=1+1",
    "+cmd",
    "-1+1",
    "@SUM(A1)",
    "",
    "clip\U0001f3ac.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_name_is_one_printable_line(name: str) -> None:
    assert printable(name).isprintable()
    assert printable(name) == name or not name.isprintable()


def test_a_table_gives_back_the_cells_and_no_program_obeys_them(tmp_path: Path) -> None:
    rows = [[name, "second", name] for name in NAMES]
    write_table(tmp_path / "table.tsv", rows)
    assert read_table(tmp_path / "table.tsv") == rows
    lines = (tmp_path / "table.tsv").read_bytes().decode().splitlines()
    assert len(lines) == len(rows)  # also for programs that break lines at U+2028
    for cell in "\t".join(lines).split("\t"):
        assert cell.isprintable() and not cell.startswith(("=", "+", "-", "@", '"', "\uff1d"))


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    write_table(tmp_path / "table.tsv", [[-1, -0.5, 3, "-1e-3", 1.5]])
    assert (tmp_path / "table.tsv").read_text() == "-1\t-0.5\t3\t-1e-3\t1.5\n"


def test_every_line_of_a_message_is_printable() -> None:
    assert printable_lines("one\r\n\x1b two\n\n") == "one\\r\n\\x1b two\n\n"


@pytest.mark.parametrize("rows", [[], [[""]], [["a"], [""], ["", ""]]])
def test_empty_cells_come_back(rows: list[list[str]], tmp_path: Path) -> None:
    write_table(tmp_path / "table.tsv", rows)
    assert read_table(tmp_path / "table.tsv") == rows


def test_escapes_that_are_no_character_stay(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("\\U00110000\\xZZ\\q\\U0010ffff\n")
    assert read_table(tmp_path / "table.tsv") == [["\\U00110000\\xZZ\\q\U0010ffff"]]


CELLS = st.text(max_size=12) | st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))


@examples(200, 5000)
@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=5))
def test_any_cells_come_back(tmp_path: Path, rows: list[list[str]]) -> None:
    write_table(tmp_path / "table.tsv", rows)
    text = (tmp_path / "table.tsv").read_bytes().decode()
    assert read_table(tmp_path / "table.tsv") == rows and text.replace("\t", "").replace("\n", "").isprintable()
