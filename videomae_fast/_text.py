"""Names from strangers, made safe to print and to write into a table.

The name of a file may hold any byte but "/" and NUL: line ends, tabs, terminal escapes, bytes that are no UTF-8.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ._files import atomic_write

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})|(.))")
_SHORT = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
# What makes a spreadsheet compute a cell (also in full width, and after a quote that it removes), and the mark that
# prevents it.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", '"', "'")


def printable(text: object) -> str:
    r"""Text that a terminal shows and does not obey.

    Every character that is not printable (`str.isprintable`) becomes its Python escape: "\n" is shown as `\n`, the
    escape character as `\x1b`, a byte that is no UTF-8 as `\udc80`. Backslashes stay as they are.

    Args:
        text: a name or a message; `str` is applied to it.

    Returns:
        One line of printable characters.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_escape, text))


def printable_lines(text: object) -> str:
    """A message of several lines that a terminal shows and does not obey.

    Args:
        text: the message; `str` is applied to it. A line end in a name ends a line here: `printable` is for names.

    Returns:
        The lines, each as `printable` returns it.
    """
    return "\n".join(map(printable, str(text).split("\n")))


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    r"""Write rows as tab-separated UTF-8, whole or not at all; `read_table` returns the same cells.

    In a cell, `printable` escapes apply, and a backslash is doubled. A cell that a spreadsheet would compute (it
    begins with = + - @, and is no number) gets an apostrophe in front, and so does one that begins with a quote or an
    apostrophe.

    Args:
        path: the file to make or replace; its folder exists.
        rows: of cells; `str` is applied to each.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(path) as partial:
        text = "".join("\t".join(map(_cell, row)) + "\n" for row in rows)
        partial.write_text(text, encoding="utf-8", newline="\n")


def read_table(path: str | os.PathLike) -> list[list[str]]:
    """Read what `write_table` wrote.

    Args:
        path: the file.

    Returns:
        The rows, one for each line of the file.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    text = Path(path).read_bytes().decode("utf-8")
    lines = text.removesuffix("\n").split("\n") if text else []
    return [[_text(cell) for cell in line.removesuffix("\r").split("\t")] for line in lines]


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _cell(value: object) -> str:
    text = "".join("\\\\" if character == "\\" else _escape(character) for character in str(value))
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _text(cell: str) -> str:
    return _ESCAPE.sub(_unescape, cell.removeprefix("'"))


def _unescape(match: re.Match[str]) -> str:
    *codes, short = match.groups()
    return _SHORT.get(short, match[0]) if short else chr(int(next(filter(None, codes)), 16))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]\d[\d.]*(e[+-]?\d+)?", text) is not None
