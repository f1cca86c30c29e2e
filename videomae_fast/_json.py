"""Text and JSON from strangers: read without waiting for a pipe, and without a silent choice between two values."""

import json
from pathlib import Path
from typing import Any, NoReturn


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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.100} comes twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
