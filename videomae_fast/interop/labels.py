"""Names of classes, and the rows of one classifier's head that are the classes of another.

VideoMAE V2's classifiers know the 710 classes that Kinetics 400, 600 and 700 have together. As a classifier of one of
these, such a model needs the rows of its head that belong to that data set's classes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._json import parse_json, read_text
from ..data import read_classes
from .checkpoint import CheckpointError
from .settings import PathLike, settings_beside

CLASSES_FILE = "classes.json"  # beside weights: a list of the names of the classes


def class_names_beside(source: PathLike) -> tuple[str, ...]:
    """The names of the classes of weights, as a file beside them tells them.

    Args:
        source: file of weights, or folder that holds one. `id2label` in a `config.json` in the same folder names the
            classes, or else CLASSES_FILE, which training writes into every checkpoint of a classifier.

    Returns:
        The names; empty if nothing tells them, or if transformers made them up (LABEL_0, LABEL_1, ...).

    Raises:
        CheckpointError: `config.json` is not JSON, or `id2label` is not one name for each of 0, 1, and so on.
        ValueError: CLASSES_FILE is damaged; see `read_classes`.
    """
    labels = settings_beside(source).get("id2label")
    if isinstance(labels, dict):
        names = [labels.get(str(number)) for number in range(len(labels))]
        if not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"id2label of config.json does not name classes 0 to {len(labels) - 1}, one each")
        return () if names == [f"LABEL_{number}" for number in range(len(names))] else tuple(map(str, names))
    path = (Path(source) if Path(source).is_dir() else Path(source).parent) / CLASSES_FILE
    return read_classes(path) if path.is_file() else ()


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


def lists_rows(path: PathLike) -> bool:
    """Whether a file is meant as a list of rows, for `read_head_rows`, and not as one of names, for `read_classes`.

    Args:
        path: of the file.

    Returns:
        True for a JSON list with a number in it. False also for a file that cannot be read: its reader says why.
    """
    if Path(path).suffix.lower() != ".json":
        return False
    try:
        listed = parse_json(read_text(Path(path)))
    except (OSError, ValueError):
        return False
    return isinstance(listed, list) and any(isinstance(item, int | float) for item in listed)


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


def _read_json(path: PathLike, kind: type, what: str) -> Any:
    try:
        value = parse_json(read_text(Path(path)).removeprefix("\ufeff"))
    except ValueError as error:
        raise ValueError(f"{_name(path)} must hold {what}, and cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{_name(path)} must hold {what}, got {type(value).__name__}")
    return value


def _name(path: PathLike) -> str:
    return f"class file {os.fspath(path)!r}"
