"""Text and JSON from strangers: read without waiting for a pipe, and without a silent choice between two values."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")


def read_text(path: Path) -> str:
    """Read a regular file as UTF-8.

    Args:
        path: the file. A pipe, which would wait for its writer, and a device, which may never end, are refused.

    Returns:
        The text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file, or no UTF-8.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Parse JSON as its standard allows.

    Args:
        text: the JSON.

    Returns:
        The value.

    Raises:
        ValueError: it is no JSON, nests too deep, names a key twice in an object, or holds NaN or Infinity, which
            only Python's parser takes.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deep") from None


def parse_json_list(text: str) -> Iterator[Any]:
    """Parse a JSON list item by item, so that a long one is never held as Python objects.

    Args:
        text: the JSON.

    Yields:
        The items, as `parse_json` returns them. What is wrong behind an item is found after it was yielded.

    Raises:
        ValueError: as `parse_json`; also if it is no list.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
    place = _after_space(text, 0)
    if text[place : place + 1] != "[":
        raise json.JSONDecodeError("Expecting a list", text, place)
    place = _after_space(text, place + 1)
    more = text[place : place + 1] != "]"
    while more:
        try:
            item, place = decoder.raw_decode(text, place)
        except RecursionError:
            raise ValueError("its lists or objects are nested too deep") from None
        yield item
        place = _after_space(text, place)
        more = text[place : place + 1] == ","
        if more:
            place = _after_space(text, place + 1)
        elif text[place : place + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    place = _after_space(text, place + 1)
    if place < len(text):
        raise json.JSONDecodeError("Extra data", text, place)


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None  # it matches nothing, too
    return found.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.100} comes twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
