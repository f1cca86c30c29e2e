"""Classes: files of their names, and numbers for the names that come with videos."""

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from ..._json import parse_json, read_text
from ..._text import printable

CLASSES_HELP = (
    "file of class names in the order of their numbers, one name a line or a JSON list; without it, names are sorted"
)
NO_CLASS = "expected a class number from 0 on or a class name in its line, or a folder named like the class around it"


def read_classes(path: str | os.PathLike) -> tuple[str, ...]:
    """Read the names of classes.

    Args:
        path: a JSON list of names (.json), which may have any characters, or text in UTF-8 with one name a line,
            without a heading. There, white space at the ends of a name does not count.

    Returns:
        The names; class k is number k.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no regular file, no UTF-8 or no JSON list of names, has no names or a blank line before
            its last name, or has a name twice. The message has the file and, for text, the line.
    """
    path = Path(path)
    shown = printable(path)
    try:
        text = read_text(path).removeprefix("\ufeff")
        listed = _listed(text) if path.suffix.lower() == ".json" else _lines(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no class file at {shown}") from None
    except ValueError as error:
        raise ValueError(f"{shown} is no file of class names: {error}") from error
    first: dict[str, int] = {}
    for number, name in enumerate(listed, 1):
        if not name:
            raise ValueError(f"{shown}:{number}: expected the name of class {number - 1}, got a blank one")
        if first.setdefault(name, number) != number:
            raise ValueError(f"{shown}:{number}: '{printable(name)}' comes twice, first at {first[name]}")
    return tuple(listed)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")]


def _listed(text: str) -> list[str]:
    listed = parse_json(text)
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"expected a list of names, got {type(listed).__name__} {printable(repr(listed)[:100])}")
    return listed


def unknown_class(given: int | str, class_names: Sequence[str]) -> str:
    """Say that a class is none of the known ones.

    Args:
        given: the number or name of the class.
        class_names: the names of the known classes.

    Returns:
        The end of a message: the class, what is allowed, and similar names.
    """
    count = len(class_names)
    if isinstance(given, int):
        return f"class number {given}: expected a number in [0, {count}), as there are {count} classes"
    similar = get_close_matches(given, class_names)
    near = ", ".join(f"'{printable(name)}'" for name in similar or class_names[:3])
    return (
        f"class '{printable(given)}', which is none of the {count} classes "
        f"({'the nearest are' if similar else 'the first are'} {near})"
    )


class ClassNumbers:
    """Numbers the classes of videos that come one by one, each with a number or a name.

    Args:
        root: folder of the videos, for messages.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self._root = root
        self._numbers: dict[str, int] = {}
        self._first: dict[bool, str] = {}  # the first video with a number, and the first one with a name

    def number(self, label: int, class_name: str, video: Callable[[], str]) -> int:
        """The number of a video's class.

        Args:
            label: class number; negative for none.
            class_name: class name; empty for none.
            video: returns the name of the video, relative to the root.

        Returns:
            The class number, or the number of the name in the order of appearance.

        Raises:
            ValueError: the video has no class, or it has a name and an earlier one a number, or the reverse.
        """
        named = class_name != ""
        if not named and label < 0:
            raise ValueError(f"{printable(os.path.join(self._root, video()))} has no class: {NO_CLASS}")
        if named not in self._first:
            given = repr(printable(class_name)) if named else label
            self._first[named] = f"{printable(os.path.join(self._root, video()))} has {given}"
            if len(self._first) == 2:
                both = " and ".join(self._first.values())
                raise ValueError(f"classes must be all numbers or all names, got both: {both}")
        return self._numbers.setdefault(class_name, len(self._numbers)) if named else label

    def in_order(self) -> tuple[list[int] | None, tuple[str, ...]]:
        """Number the names in sorted order.

        Returns:
            For each number that `number` returned for a name the place of that name in sorted order, and the names in
            that order; None and no names if videos have numbers.
        """
        names = sorted(self._numbers)
        if not names:
            return None, ()
        place_of = {name: place for place, name in enumerate(names)}
        return [place_of[name] for name in self._numbers], tuple(names)
