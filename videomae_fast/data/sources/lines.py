r"""One line of a list: its formats, how it is parsed, and how it is written.

A path with white space, line ends or other characters that a plain line cannot hold is written in double quotes with
JSON's escapes: `"with space.mp4" 3`. A plain path may not hold white space, except in the format "paths".
"""

import json
import os
import re
from collections.abc import Callable, Iterable

from ..._text import printable
from .annotations import Row

FORMATS = ("auto", "v2", "v1", "paths")
_INTEGER = re.compile(r"[+-]?\d+")
_DIGITS = 18  # a number of that many digits fits in int64
_SMALL_INTEGER = re.compile(rf"[+-]?\d{{1,{_DIGITS}}}")
_LABEL = re.compile(rf"\+?\d{{1,{_DIGITS}}}")
_LARGE_LABEL = re.compile(r"\+?\d+")
_SHOWN = 200  # characters of a line in a message


def guess_format(line: str) -> str:
    """Find the format of a list from its first line.

    Args:
        line: the line, without white space at its ends.

    Returns:
        "v2", "v1" or "paths".

    Raises:
        ValueError: the line fits no format.
    """
    fields = _fields(line)
    if len(fields) == 1:
        return "paths"
    if _INTEGER.fullmatch(fields[1]):
        return "v2" if len(fields) > 2 and _INTEGER.fullmatch(fields[2]) else "v1"
    raise ValueError(
        f"cannot tell the format of {_shown(line)}: expected 'path start total' (v2), 'path label' (v1) or one path; "
        f'write a path with spaces in double quotes, as "a b.mp4", or name the format with list_format={FORMATS[1:]}'
    )


def parse_line(line: str, list_format: str) -> Row:
    """Parse a line.

    Args:
        line: the line, without white space at its ends.
        list_format: "v2", "v1" or "paths".

    Returns:
        The row.

    Raises:
        ValueError: the line is malformed.
    """
    row = _PARSERS[list_format](line)
    if "\0" in row.path:
        raise ValueError(f"a path cannot hold a NUL character, got {_shown(line)}")
    if not row.path:
        raise ValueError(f"the path is empty in {_shown(line)}")
    return row


def format_line(path: str, rest: str = "") -> str:
    """Write a line that `parse_line` reads back.

    Args:
        path: the path; any characters that a file system allows.
        rest: what follows the path in the line, as `rest_of_line` returns it.

    Returns:
        The line, without an end. The path is in quotes only if it needs them.
    """
    if " " not in path and path.isprintable() and not path.startswith('"'):  # no other white space is printable
        return path + rest
    quoted = json.dumps(path, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted) + rest


def rest_of_line(line: str, path: str) -> str:
    """What follows the path in a line.

    Args:
        line: the line, without white space at its ends.
        path: the path in it, as `parse_line` returns it.

    Returns:
        The rest, with the white space before it.
    """
    if line == path:
        return ""
    quoted = _quoted(line)
    return line[quoted[1] if quoted else len(path) :]


def check_guesses(lines: Iterable[str]) -> None:
    """Check that each line of a list, if it comes first in a new list, shows the format of the old one.

    Args:
        lines: the lines of a list whose format was guessed, at least one.

    Raises:
        ValueError: a new list that begins with one of the lines would be read in another format, or not at all.
    """
    first, *others = lines
    list_format = guess_format(first)
    if list_format == "paths":
        return  # `format_line` writes one field
    for line in others:
        try:
            same = guess_format(line) == list_format
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"the list is {list_format}, but a new list that begins with its line {_shown(line)} would not be read "
                f"so: give list_format={list_format!r}, here and where the new list is read"
            )


def _parse_v2(line: str) -> Row:
    fields = _fields(line)
    if len(fields) < 3 or not (_INTEGER.fullmatch(fields[1]) and _INTEGER.fullmatch(fields[2])):
        raise ValueError(f"expected 'path start total' with two integers, got {_shown(line)}")
    if not (_SMALL_INTEGER.fullmatch(fields[1]) and _SMALL_INTEGER.fullmatch(fields[2])):
        raise ValueError(f"start and total must have at most {_DIGITS} digits, got {_shown(line)}")
    start, total = int(fields[1]), int(fields[2])
    if total == 0 or (total > 0 and start < 0):
        raise ValueError(f"expected total < 0 (a video file) or total > 0 and start >= 0, got {_shown(line)}")
    return Row(fields[0], start, total, label=_label(fields[3]) if len(fields) > 3 else -1)


def _parse_v1(line: str) -> Row:
    fields = _fields(line)
    if len(fields) < 2:
        raise ValueError(f"expected 'path label', got {_shown(line)}")
    return Row(fields[0], label=_label(fields[1]))


def _parse_path(line: str) -> Row:
    quoted = _quoted(line)
    return Row(quoted[0] if quoted and quoted[1] == len(line) else line)


_PARSERS: dict[str, Callable[[str], Row]] = {"v2": _parse_v2, "v1": _parse_v1, "paths": _parse_path}


def _fields(line: str) -> list[str]:
    if line[0] == '"' and (quoted := _quoted(line)):
        return [quoted[0], *line[quoted[1] :].split()]
    return line.split()


def _quoted(line: str) -> tuple[str, int] | None:
    """The path in quotes at the beginning of a line, and where it ends; None if there is none."""
    if not line.startswith('"'):
        return None
    try:
        path, end = json.JSONDecoder(strict=False).raw_decode(line)
    except ValueError:
        return None
    if line[end : end + 1].strip():
        return None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"no file can have this name: {_shown(line)}") from None
    return path, end


def _label(field: str) -> int:
    """The class number in a field; -1 if it has none."""
    if _LABEL.fullmatch(field):
        return int(field)
    if _LARGE_LABEL.fullmatch(field):
        raise ValueError(f"a label must have at most {_DIGITS} digits, got {_shown(field)}")
    return -1


def _shown(text: str) -> str:
    return f"'{printable(text[:_SHOWN])}{'...' if len(text) > _SHOWN else ''}'"
