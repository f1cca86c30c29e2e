"""Names of classes, and the rows of one classifier's head that are the classes of another.

VideoMAE V2's classifiers know the 710 classes that Kinetics 400, 600 and 700 have together. As a classifier of one of
these, such a model needs the rows of its head that belong to that data set's classes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._json import parse_json, read_text

PathLike = str | os.PathLike[str]


def read_class_names(path: PathLike) -> list[str]:
    """Read the names of classes.

    Args:
        path: UTF-8 text with one name per line, or a `.json` file with a list of names. Name i is class i.

    Returns:
        The names, without white space around them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of these formats, is empty, or has an empty name or a name twice; the message
            names the file, and the line or entry counted from 1.
    """
    if Path(path).suffix == ".json":
        names = _read_json(path, list, "a list of names")
        word = "entry"
    else:
        names, word = _read_text(path).rstrip().split("\n"), "line"
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{_name(path)}: {word} {number} is {name!r}, which is no name of a class")
        if name.strip() in first:
            raise ValueError(f"{_name(path)}: {word} {number} is {name!r}, as is {word} {first[name.strip()]}")
        first[name.strip()] = number
    if not first:
        raise ValueError(f"{_name(path)} has no names of classes")
    return list(first)


def read_merged_names(path: PathLike) -> dict[str, str]:
    """Read new names of classes that were merged with others, such as the published `k710_identical_label_merge.json`.

    Args:
        path: a JSON object, {old name: new name}.

    Returns:
        {old name: new name}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such object; the message names it.
    """
    merged = _read_json(path, dict, "an object of old and new names")
    if not all(isinstance(new, str) for new in merged.values()):
        raise ValueError(f"{_name(path)} must hold an object of old and new names, a name is no text")
    return merged


def read_head_rows(path: PathLike) -> list[int]:
    """Read the rows of a head, such as the published `label_710to400.json`.

    Args:
        path: a JSON list; entry j is the row of class j, counted from 0.

    Returns:
        The rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no list of different whole numbers from 0 up; the message names it.
    """
    rows = _read_json(path, list, "a list of rows")
    wrong = [row for row in rows if type(row) is not int or row < 0]
    if wrong or not rows:
        raise ValueError(f"{_name(path)} must hold a list of rows, whole numbers from 0 up, found {wrong[:3]}")
    if len(set(rows)) < len(rows):
        raise ValueError(f"{_name(path)} has row {_twice(rows)} for two classes")
    return rows


def head_rows(
    source_names: Sequence[str], target_names: Sequence[str], merged: Mapping[str, str] | None = None
) -> list[int]:
    """The rows of a head that are the classes of another data set, by their names.

    Args:
        source_names: classes of the head; name i is row i.
        target_names: classes of the data set, in the order of its labels.
        merged: {old name: new name}, for a target class that the source has under the new name alone.

    Returns:
        One row for each target class.

    Raises:
        ValueError: the source has no class of a target's name; the message names up to eight. Or a name comes twice, or
            two target classes have the same row.
    """
    for what, names in (("source_names", source_names), ("target_names", target_names)):
        if len(set(names)) < len(names):
            raise ValueError(f"{what} has the class {_twice(names)!r} twice")
    row_of = {name: row for row, name in enumerate(source_names)}
    merged = merged or {}
    found = {name: row_of.get(name, row_of.get(merged.get(name, name))) for name in target_names}
    missing = [name for name, row in found.items() if row is None]
    if missing:
        named = ", ".join(map(repr, missing[:8])) + (f", and so on ({len(missing)} in all)" if len(missing) > 8 else "")
        raise ValueError(
            f"the {len(source_names)} classes of the head do not have {named}; names must be equal, letter by letter, "
            "or be given as merged names"
        )
    rows = [row for row in found.values() if row is not None]
    if len(set(rows)) < len(rows):
        both = [name for name, row in found.items() if row == _twice(rows)]
        raise ValueError(f"the classes {both[0]!r} and {both[1]!r} have the same row, {_twice(rows)}, of the head")
    return rows


def _twice(values: Iterable[Any]) -> Any:
    seen: set[Any] = set()
    return next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]


def _read_text(path: PathLike) -> str:
    try:
        return read_text(Path(path)).removeprefix("\ufeff")
    except ValueError as error:
        raise ValueError(f"{_name(path)} cannot be read: {error}") from error


def _read_json(path: PathLike, kind: type, what: str) -> Any:
    try:
        value = parse_json(_read_text(path))
    except ValueError as error:
        raise ValueError(f"{_name(path)} must hold {what}, and is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{_name(path)} must hold {what}, got {type(value).__name__}")
    return value


def _name(path: PathLike) -> str:
    return f"class file {os.fspath(path)!r}"
