"""Lines of lists, with paths in quotes."""

import pytest

from videomae_fast.data.sources.annotations import Row
from videomae_fast.data.sources.lines import check_guesses, format_line, guess_format, parse_line, rest_of_line

HOSTILE = [
    "with space.mp4",
    " leading and trailing ",
    "tab\t.mp4",
    "line\nend.mp4",
    "carriage\rreturn.mp4",
    "separators\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000.mp4",
    "\x1b]0;owned\x07\x1b[2J.mp4",
    "not utf-8 \udcff\udc80.mp4",
    "\ufeffmark.mp4",
    '"quoted"',
    '"quoted" 3',
    '"',
    '"half',
    "clip 3 -1",
    "clip\U0001f3ac \U0001f3ac.mp4",
    "name \uffff\U000e0001.mp4",
]
PLAIN = [
    "plain.mp4",
    "a/b.mp4",
    "back\\slash\\n",
    "'single'",
    'middle"quote',
    "größe.mp4",
    "視頻.mp4",
    "#5",
    "-1",
    "{}",
]


@pytest.mark.parametrize("rest", ["", " 7", "\t0 -1  5 more"])
@pytest.mark.parametrize("path", [*HOSTILE, *PLAIN])
def test_a_written_line_is_read_back(path: str, rest: str) -> None:
    line = format_line(path, rest)
    assert (line == path + rest) == (path in PLAIN)  # quotes only where they are needed
    assert line[: len(line) - len(rest)].isprintable() and line.strip() == line
    list_format = {"": "paths", " 7": "v1"}.get(rest, "v2")
    assert guess_format(line) == list_format
    row = parse_line(line, list_format)
    assert (row.path, row.label) == (path, {"": -1, " 7": 7}.get(rest, 5))
    assert rest_of_line(line, row.path) == rest


@pytest.mark.parametrize(
    ("line", "list_format", "row"),
    [
        ('"a b.mp4" 3', "v1", Row("a b.mp4", label=3)),
        (r'"a\tb\u00e9\ud83c\udfac"	4', "v1", Row("a\tbé\U0001f3ac", label=4)),
        (r'"\udcff\/" 0 -1', "v2", Row("\udcff/")),
        ('"raw\ttab" 1', "v1", Row("raw\ttab", label=1)),
        # What no quoted path is stays as it is: no white space after the quotes, no end, an escape that JSON lacks.
        ('"a"b.mp4 3', "v1", Row('"a"b.mp4', label=3)),
        ('"a.mp4 3', "v1", Row('"a.mp4', label=3)),
        (r'"\x41" 3', "v1", Row(r'"\x41"', label=3)),
        ('a" b.mp4"', "paths", Row('a" b.mp4"')),
        ('"Title" by x.mp4', "paths", Row('"Title" by x.mp4')),
        ('"a b.mp4"', "paths", Row("a b.mp4")),
    ],
)
def test_quoted_paths(line: str, list_format: str, row: Row) -> None:
    assert parse_line(line, list_format) == row


def test_the_rest_of_a_plain_line_with_spaces_is_empty() -> None:
    for line in ("a b.mp4", '"Title" by x.mp4'):
        assert rest_of_line(line, parse_line(line, "paths").path) == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'"a\u0000b" 3', "NUL"),
        ("a\0b 3", r"NUL character, got 'a\\x00b 3'"),
        ('"" 3', "the path is empty"),
        (r'"\ud800" 3', "no file can have this name"),
        (f"a {'9' * 19}", "a label must have at most 18 digits"),
        (f"a +{'9' * 10**6}", "a label must have at most 18 digits, got '.{200}...'$"),
        ("a\x1b[2J", r"expected 'path label', got 'a\\x1b\[2J'"),
    ],
)
def test_bad_lines(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_line(line, "v1")


@pytest.mark.parametrize("numbers", ["9223372036854775808 5", f"{'9' * 19} -1", f"0 -{'1' * 19}", f"1 {'9' * 5000}"])
def test_numbers_that_do_not_fit(numbers: str) -> None:
    assert guess_format(f"a {numbers}") == "v2"
    with pytest.raises(ValueError, match="start and total must have at most 18 digits"):
        parse_line(f"a {numbers}", "v2")
    assert parse_line(f"a {'9' * 18} {'9' * 18}", "v2").total == 10**18 - 1


def test_a_list_whose_lines_look_different_cannot_be_cut() -> None:
    check_guesses(["c", "a b", "a 3", '"q'], "paths")  # each is written as one field
    check_guesses(["a 0 -1", "b 0 -1 4"], "v2")
    check_guesses(["a 3", "b 4 x", '"c d" 5', "e.mp4 high jump"], "v1")
    check_guesses(["a,3", '"b ""c""",4', "d.mp4,high jump"], "csv")
    for line in ("b 4 5", "b name"):
        with pytest.raises(ValueError, match=rf"the list is v1, but .* '{line}' .* give list_format='v1'"):
            check_guesses(["a 3", line], "v1")
