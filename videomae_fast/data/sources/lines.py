r"""One line of a list: its formats, how it is parsed, and how it is written.

A path with white space, line ends or other characters that a plain line cannot hold is written in double quotes with
JSON's escapes: `"with space.mp4" 3`. A plain path may not hold white space, except in the format "paths".
Comma-separated values (commas.py) have quotes of their own.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from .annotations import Row
from .commas import csv_field, is_csv, names_video, parse_csv
from .fields import DIGITS, INTEGER, check_path, parse_label, quoted_text, shown, split_fields

FORMATS = ("auto", "v2", "v1", "frames", "csv", "paths")
_SMALL_INTEGER = re.compile(rf"[+-]?\d{{1,{DIGITS}}}")
_FIRST_IMAGE = 1  # of a folder in the format "frames"


def guess_format(line: str, labelled: bool = False) -> str:
    """Find the format of a list from its first line.

    Args:
        line: the line, without white space at its ends.
        labelled: whether every line has a label. Two integers and nothing else after a path are then the number of
            images and the label, and not a first image and the number of images, if the first integer is 2 or more.

    Returns:
        "v2", "v1", "frames", "csv" or "paths".

    Raises:
        ValueError: the line fits no format.
    """
    fields = split_fields(line)
    if len(fields) == 1 and (quoted := quoted_text(line)) and quoted[1] == len(line):
        return "paths"
    if len(fields) > 1 and INTEGER.fullmatch(fields[1]):
        if len(fields) == 2 or not INTEGER.fullmatch(fields[2]):
            return "v1"
        is_first_image = fields[1].lstrip("+-0") in ("", "1")  # and no number of images
        return "frames" if labelled and len(fields) == 3 and not is_first_image and fields[2][0] != "-" else "v2"
    if is_csv(line):
        return "csv"
    if len(fields) == 1:
        return "paths"
    if names_video(fields[0]) and not names_video(line):
        return "v1"
    raise ValueError(
        f"cannot tell the format of {shown(line)}: expected 'path start total' (v2), 'path label' (v1), 'path,label' "
        f'(csv) or one path; write a path with spaces in double quotes, as "a b.mp4", or name the format with '
        f"list_format={FORMATS[1:]}"
    )


def parse_lines(texts: Iterator[str], list_format: str, labelled: bool = False) -> Iterator[tuple[str, Row]]:
    """Parse the lines of a list.

    Args:
        texts: the lines of a file, with their ends.
        list_format: one of FORMATS.
        labelled: as in `guess_format`.

    Yields:
        For each line that is not blank the line and its row; for comma-separated values the line `path,label`.

    Raises:
        ValueError: a line is malformed.
    """
    for text in texts:
        line = text.strip()
        if not line:
            continue
        if list_format == "auto":
            list_format = guess_format(line, labelled)
        if list_format == "csv":
            yield from parse_csv(chain([text], texts))
            return
        yield line, parse_line(line, list_format)


def parse_line(line: str, list_format: str) -> Row:
    """Parse a line.

    Args:
        line: the line, without white space at its ends.
        list_format: "v2", "v1", "frames" or "paths".

    Returns:
        The row.

    Raises:
        ValueError: the line is malformed.
    """
    row = _PARSERS[list_format](line)
    check_path(row.path, line)
    return row


def format_line(path: str, rest: str = "") -> str:
    """Write a line that `parse_line` reads back.

    Args:
        path: the path; any characters that a file system allows.
        rest: what follows the path in the line, as `rest_of_line` returns it.

    Returns:
        The line, without an end. The path is in quotes only if it needs them.
    """
    if rest.startswith(","):
        return csv_field(path) + rest
    plain = " " not in path and path.isprintable() and not path.startswith('"')  # no other white space is printable
    if plain and (rest or not is_csv(path)):
        return path + rest
    quoted = json.dumps(path, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted) + rest


def rest_of_line(line: str, path: str) -> str:
    """What follows the path in a line.

    Args:
        line: the line, as `parse_lines` returns it.
        path: the path in it, as `parse_lines` returns it.

    Returns:
        The rest, with the white space or comma before it.
    """
    if line == path:
        return ""
    if line.startswith(f"{csv_field(path)},"):
        return line[len(csv_field(path)) :]
    quoted = quoted_text(line)
    return line[quoted[1] if quoted else len(path) :]


def check_guesses(lines: Iterable[str], list_format: str) -> None:
    """Check that each line of a list, if it comes first in a new list, shows the format of the old one.

    Args:
        lines: the lines of a list whose format was guessed, as `parse_lines` returns them.
        list_format: the format that was guessed.

    Raises:
        ValueError: a new list that begins with one of the lines would be read in another format, or not at all.
    """
    if list_format == "paths":
        return  # `format_line` writes one field, in quotes where it looks like two
    for line in lines:
        try:
            same = guess_format(re.split("[\r\n]", line, maxsplit=1)[0].strip()) == list_format
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"the list is {list_format}, but a new list that begins with its line {shown(line)} would not be read "
                f"so: give list_format={list_format!r}, here and where the new list is read"
            )


def _parse_v2(line: str) -> Row:
    fields = split_fields(line)
    if len(fields) < 3 or not (INTEGER.fullmatch(fields[1]) and INTEGER.fullmatch(fields[2])):
        raise ValueError(f"expected 'path start total' with two integers, got {shown(line)}")
    if not (_SMALL_INTEGER.fullmatch(fields[1]) and _SMALL_INTEGER.fullmatch(fields[2])):
        raise ValueError(f"start and total must have at most {DIGITS} digits, got {shown(line)}")
    start, total = int(fields[1]), int(fields[2])
    if total == 0 or (total > 0 and start < 0):
        raise ValueError(f"expected total < 0 (a video file) or total > 0 and start >= 0, got {shown(line)}")
    label, name = parse_label(fields[3:]) if len(fields) > 3 else (-1, "")
    return Row(fields[0], start, total, label=label, class_name=name)


def _parse_v1(line: str) -> Row:
    fields = split_fields(line)
    if len(fields) < 2:
        raise ValueError(f"expected 'path label', got {shown(line)}")
    label, name = parse_label(fields[1:])
    return Row(fields[0], label=label, class_name=name)


def _parse_frames(line: str) -> Row:
    fields = split_fields(line)
    if len(fields) < 3 or not _SMALL_INTEGER.fullmatch(fields[1]) or int(fields[1]) < 1:
        raise ValueError(f"expected 'path total label' with total > 0, got {shown(line)}")
    label, name = parse_label(fields[2:])
    return Row(fields[0], _FIRST_IMAGE, int(fields[1]), label=label, class_name=name)


def _parse_path(line: str) -> Row:
    quoted = quoted_text(line)
    return Row(quoted[0] if quoted and quoted[1] == len(line) else line)


_PARSERS: dict[str, Callable[[str], Row]] = {
    "v2": _parse_v2,
    "v1": _parse_v1,
    "frames": _parse_frames,
    "paths": _parse_path,
}
