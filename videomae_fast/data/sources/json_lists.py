"""JSON lists of videos and images with questions: read entry by entry, and what their entries have in common."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..._json import parse_json, parse_json_list, read_text
from ..._text import printable
from .annotations import Row
from .caption_lines import check_clip
from .captioned import LAST, CaptionRow
from .fields import check_words, json_seconds, shown
from .lists import CHECKED_PATHS, check_root, check_text
from .shards import IMAGE_SUFFIXES

_BEGINNING = 2**16  # characters of a list that are read first to find its kind


def check_json_list(path: Path, what: str, suffixes: tuple[str, ...]) -> None:
    """Check that a path names a text file of a kind.

    Args:
        path: of the file.
        what: its name in errors.
        suffixes: that it may have.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it has another suffix, or is no regular file or no text.
    """
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ValueError(f"{what}: {printable(path)} is no regular file: name a list ({', '.join(suffixes)})")
        raise FileNotFoundError(f"{what}: there is no list ({', '.join(suffixes)}) at {printable(path)}")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{what}: expected a list ({', '.join(suffixes)}), got {printable(path)}")
    check_text(path)


def first_entry(path: Path) -> Mapping[str, Any]:
    """The first object of a list, by whose keys kinds of lists are told apart.

    Args:
        path: a JSON list (.json), or a file of a JSON object a line. Only its beginning is read.

    Returns:
        The object; empty if there is none, or the file is none of these.
    """
    if not os.path.isfile(path):
        return {}
    text, size = "", _BEGINNING
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        while more := file.read(size):
            text, size = text + more, 2 * size
            with suppress(ValueError):  # it may be cut off
                line = text.lstrip().partition("\n")[0]
                found = next(parse_json_list(text), {}) if path.suffix.lower() == ".json" else parse_json(line)
                return found if isinstance(found, dict) else {}
    return {}


def json_entries(path: Path, parse: Callable[[Mapping[str, Any]], CaptionRow]) -> Iterator[CaptionRow]:
    """The rows of a JSON list of objects.

    Args:
        path: the list.
        parse: makes the row of an entry.

    Yields:
        The rows.

    Raises:
        ValueError: the file is no list of objects in JSON, or `parse` raised; the message begins with the file, and
            with the number of the entry, from 1 on, unless the JSON itself is broken.
    """
    shown_path, number = printable(path), 1
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"{shown_path} is no text in UTF-8: {error}") from None
    try:
        for entry in parse_json_list(text):
            if not isinstance(entry, dict):
                raise ValueError(f"expected a JSON object, got {shown(repr(entry)[:999])}")
            yield parse(entry)
            number += 1
    except json.JSONDecodeError as error:
        raise ValueError(f"{shown_path} is no list in JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{shown_path}, entry {number}: {error}") from None


def found_under(folder: Path, rows: Iterator[CaptionRow], path: Path) -> Iterator[CaptionRow]:
    """The same rows, of which the first are looked for.

    Args:
        folder: that paths are relative to.
        rows: of a list.
        path: the list, for errors.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: none of the first files exists.
        ValueError: there are no rows.
    """
    first = list(islice(rows, CHECKED_PATHS))
    if not first:
        raise ValueError(f"{printable(path)} has no entries")
    check_root(folder, [captioned.row.path for captioned in first], path)
    return chain(first, rows)


def clip_row(path: str, entry: Mapping[str, Any], text: str) -> CaptionRow:
    """The row of an entry.

    Args:
        path: of the video or image.
        entry: has if wanted "start" and "end".
        text: what is kept with the video.

    Returns:
        The row.

    Raises:
        ValueError: as `check_clip` and `json_seconds`.
    """
    start, end = json_seconds(entry, "start", 0.0), json_seconds(entry, "end", LAST)
    check_clip(path, start, end, shown(path))
    return CaptionRow(Row(path), (text,), start, end)


def media_path(entry: Mapping[str, Any], names: tuple[str, str], listed: bool = False) -> str:
    """The path of the video or image of an entry.

    Args:
        entry: the entry.
        names: its key for a video, and that for an image; it has one of them.
        listed: whether the value is a list of one path.

    Returns:
        The path.

    Raises:
        ValueError: there is no path, or more than one, or an image has another suffix than `IMAGE_SUFFIXES`.
    """
    given = [name for name in names if name in entry]
    if len(given) != 1:
        raise ValueError(f"expected {names[0]} or {names[1]}, got {' and '.join(given) or 'neither'}")
    path = entry[given[0]]
    if listed:
        if not isinstance(path, list) or len(path) != 1:
            raise ValueError(f"{given[0]} must be a list of one path, got {shown(repr(path)[:999])}")
        path = path[0]
    if not isinstance(path, str):
        raise ValueError(f"{given[0]} must be a path, got {shown(repr(path)[:999])}")
    if given[0] == names[1] and path and not path.lower().endswith(IMAGE_SUFFIXES):
        raise ValueError(f"{given[0]} must end in one of {' '.join(IMAGE_SUFFIXES)}, got {shown(path)}")
    return path


def words_of(given: Any, field: str, what: str) -> str:
    """A text in a list.

    Args:
        given: the value.
        field: its place in the entry, for errors.
        what: its name in errors, such as "answer".

    Returns:
        The text without white space at its ends.

    Raises:
        ValueError: it is no text, empty, too long, or no Unicode.
    """
    if not isinstance(given, str):
        raise ValueError(f"{field} must be a text, got {shown(repr(given)[:999])}")
    try:
        return check_words(given.strip(), what)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
