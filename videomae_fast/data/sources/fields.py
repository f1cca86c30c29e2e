"""The fields of a line: paths in quotes, and labels."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._text import printable

DIGITS = 18  # a number of that many digits fits in int64
_LABEL = re.compile(rf"\+?\d{{1,{DIGITS}}}")
INTEGER = re.compile(r"[+-]?\d+")
_SHOWN = 200  # characters of a line in a message
_LONGEST = 2**16  # characters of a text
_LATEST = 10**9  # seconds


def split_fields(line: str) -> list[str]:
    """Split a line at white space.

    Args:
        line: without white space at its ends; the first field may be in quotes.

    Returns:
        The fields, at least one; the first one without its quotes.
    """
    if line[0] == '"' and (quoted := quoted_text(line)):
        return [quoted[0], *line[quoted[1] :].split()]
    return line.split()


def quoted_text(line: str) -> tuple[str, int] | None:
    """The text in quotes at the beginning of a line.

    Args:
        line: any text.

    Returns:
        The text, its JSON escapes resolved, and where the quotes end; None if the line does not begin with quotes that
        white space or the end of the line follows.

    Raises:
        ValueError: the text cannot be part of a path.
    """
    if not line.startswith('"'):
        return None
    try:
        text, end = json.JSONDecoder(strict=False).raw_decode(line)
    except ValueError:
        return None
    if line[end : end + 1].strip():
        return None
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"no file can have this name: {shown(line)}") from None
    return text, end


def parse_label(fields: Sequence[str]) -> tuple[int, str]:
    """Read a label.

    Args:
        fields: the fields from the label to the end of the line, at least one.

    Returns:
        The class number and the class name. If the first field is an integer, it is the number, -1 if it is negative,
        and the name is empty. Otherwise all fields are the name, without quotes around it, and the number is -1.

    Raises:
        ValueError: the number has more than 18 digits, or a name in quotes is no text.
    """
    if _LABEL.fullmatch(fields[0]):
        return int(fields[0]), ""
    if INTEGER.fullmatch(fields[0]):
        if fields[0].startswith("-"):
            return -1, ""
        raise ValueError(f"a label must have at most {DIGITS} digits, got {shown(fields[0])}")
    name = " ".join(fields).strip()
    quoted = quoted_text(name)
    return -1, quoted[0].strip() if quoted and quoted[1] == len(name) else name


def check_path(path: str, line: str) -> None:
    """Check the path of a line.

    Args:
        path: the path.
        line: the line, for the error.

    Raises:
        ValueError: no file can have this path.
    """
    if "\0" in path:
        raise ValueError(f"a path cannot hold a NUL character, got {shown(line)}")
    if not path:
        raise ValueError(f"the path is empty in {shown(line)}")


def check_words(text: str, what: str) -> str:
    """Check a text that a model is to learn.

    Args:
        text: without white space at its ends.
        what: its name in the error, such as "caption".

    Returns:
        The text.

    Raises:
        ValueError: it is empty, too long, or no Unicode text.
    """
    if not text:
        raise ValueError(f"the {what} is empty")
    if len(text) > _LONGEST:
        article = "an" if what[0] in "aeiou" else "a"
        raise ValueError(f"{article} {what} has at most {_LONGEST} characters, got {len(text)}: {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} is no text in UTF-8: {shown(text)}") from None
    return text


def json_seconds(given: Mapping[str, Any], name: str, default: float) -> float:
    """Seconds of a video in a JSON object.

    Args:
        given: the object.
        name: the key.
        default: the value if there is none, or null.

    Returns:
        The seconds.

    Raises:
        ValueError: the value is no number, negative or too large.
    """
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LATEST:
        raise ValueError(f"{name} must be seconds, at least 0 and at most {_LATEST}, got {shown(repr(value)[:99])}")
    return float(value)


def shown(text: str) -> str:
    """A line or field in a message.

    Args:
        text: of any length.

    Returns:
        Its beginning, printable and in quotes.
    """
    return f"'{printable(text[:_SHOWN])}{'...' if len(text) > _SHOWN else ''}'"
