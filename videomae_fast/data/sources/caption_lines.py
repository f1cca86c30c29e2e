"""The lines of a list of captions: tab- or comma-separated values under column names, or JSON objects.

Fields are written as in other comma-separated lists (commas.py): a field with the separator, a line end, or a quote at
its beginning is in double quotes, and a quote in it is doubled.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..._json import parse_json
from ..._text import printable
from .annotations import Row
from .captioned import LAST, CaptionRow, is_image
from .fields import check_path, check_words, json_seconds, shown
from .shards import SHARD_SUFFIX

COLUMNS = ("path", "start", "end", "caption")
_SECONDS = re.compile(r"\d{1,9}(\.\d{0,9})?")


def parse_caption_lines(texts: Iterator[str], suffix: str) -> Iterator[CaptionRow]:
    """Parse the lines of a list of captions.

    Args:
        texts: the lines of a file, with their ends.
        suffix: ".tsv", ".csv" or ".jsonl".

    Yields:
        The row of each line that is not blank.

    Raises:
        ValueError: a line is malformed, or names a column that is none of `COLUMNS`.
    """
    yield from PARSERS[suffix](texts)


def clean_caption(text: str) -> str:
    """A caption as it is kept.

    Args:
        text: any text.

    Returns:
        The text; a run of white space is one space, and there is none at the ends.

    Raises:
        ValueError: nothing is left, it is too long, or it is no Unicode text.
    """
    return check_words(" ".join(text.split()), "caption")


def _parse_table(texts: Iterator[str], separator: str) -> Iterator[CaptionRow]:
    columns: list[str] | None = None
    try:
        for fields in csv.reader(texts, delimiter=separator, skipinitialspace=True, strict=True):
            if not any(field.strip() for field in fields):
                continue  # a blank line
            if columns is None:
                columns = _columns(fields)
                continue
            if len(fields) != len(columns):
                raise ValueError(
                    f"expected {len(columns)} fields ({', '.join(columns)}), got {len(fields)}: "
                    f"{shown(separator.join(fields))}"
                )
            yield _table_row(columns, fields, shown(separator.join(fields)))
    except csv.Error as error:
        raise ValueError(
            f"no separated values ({printable(error)}): a field that begins with a double quote ends with one, and "
            "quotes in it are doubled"
        ) from None


def _columns(fields: list[str]) -> list[str]:
    columns = [field.strip() for field in fields]
    unknown = next((column for column in columns if column not in COLUMNS), None)
    if unknown is not None or not {"path", "caption"} <= set(columns):
        what = "no column 'path' or 'caption'" if unknown is None else f"the unknown column {shown(unknown)}"
        raise ValueError(
            f"the first line must name the columns, path and caption and if wanted start and end (seconds) and more "
            f"columns called caption; it has {what}"
        )
    twice = next((column for column in COLUMNS[:3] if columns.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"the column '{twice}' comes twice")
    return columns


def _table_row(columns: list[str], fields: list[str], line: str) -> CaptionRow:
    of = dict(zip(columns, fields, strict=True))
    texts = [field for column, field in zip(columns, fields, strict=True) if column == "caption"]
    # Rows with fewer captions than there are columns end in empty ones; the first is always needed.
    texts = [text for number, text in enumerate(texts) if number == 0 or text.strip()]
    start, end = of.get("start", "").strip(), of.get("end", "").strip()
    return _row(of["path"], texts, _seconds(start, "start", 0.0), _seconds(end, "end", LAST), line)


def _seconds(field: str, name: str, default: float) -> float:
    if field and not _SECONDS.fullmatch(field):
        raise ValueError(f"{name} must be seconds, such as 12 or 12.5, got {shown(field)}")
    return float(field) if field else default


def _parse_json_lines(texts: Iterator[str]) -> Iterator[CaptionRow]:
    for text in texts:
        line = text.strip()
        if line:
            yield _json_row(parse_json(line), shown(line))


def _json_row(given: Any, line: str) -> CaptionRow:
    if not isinstance(given, dict):
        raise ValueError(f"expected a JSON object with path and caption, got {line}")
    unknown = next((key for key in given if key not in COLUMNS), None)
    if unknown is not None:
        raise ValueError(f"unknown column {shown(unknown)}; known are {', '.join(COLUMNS)}")
    if not isinstance(given.get("path"), str):
        raise ValueError(f"path must be a text, got {line}")
    start, end = (json_seconds(given, name, default) for name, default in (("start", 0.0), ("end", LAST)))
    return _row(given["path"], caption_texts(given, line), start, end, line)


def caption_texts(given: dict[str, Any], line: str) -> list[str]:
    """The captions of a JSON object.

    Args:
        given: its key "caption" has a text, or a list of texts.
        line: the object in the error.

    Returns:
        The texts, at least one.

    Raises:
        ValueError: it has none.
    """
    texts = given.get("caption")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"caption must be a text or a list of texts, at least one, got {line}")
    return texts


def _row(path: str, texts: list[str], start: float, end: float, line: str) -> CaptionRow:
    check_clip(path, start, end, line)
    try:
        return CaptionRow(Row(path), tuple(map(clean_caption, texts)), start, end)
    except ValueError as error:
        raise ValueError(f"{error} in {line}") from None


def check_clip(path: str, start: float, end: float, line: str) -> None:
    """Check which video, and which part of it, a row names.

    Args:
        path: a video or an image.
        start: seconds, at least 0.
        end: seconds.
        line: the row in the error.

    Raises:
        ValueError: no file can have this path, it is a tar file, start is not before end, or an image has one of them.
    """
    check_path(path, line)
    try:
        path.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"no file can have this name: {line}") from None
    if path.endswith(SHARD_SUFFIX):
        raise ValueError(f"a tar file has its captions inside, and is no entry of a list, got {line}")
    if start >= end:
        raise ValueError(f"start must be before end, got {start:g} and {end:g} in {line}")
    if is_image(path) and (start > 0 or end < math.inf):
        raise ValueError(f"an image has no start and end, got {line}")


PARSERS: dict[str, Callable[[Iterator[str]], Iterator[CaptionRow]]] = {
    ".tsv": lambda texts: _parse_table(texts, "\t"),
    ".csv": lambda texts: _parse_table(texts, ","),
    ".jsonl": _parse_json_lines,
}
