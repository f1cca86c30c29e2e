"""The configuration of a recipe: sections of options, from keywords, a file or the command line.

A section is a dataclass. Each field carries its help, choices and range, and says whether it may differ between a run
and its continuation. The command line, configuration files and all checks read the fields.
"""

import difflib
import importlib
import json
import math
import numbers
import operator
import os
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from .._json import parse_json, read_text

C = TypeVar("C", bound="Config")
_TOO_LARGE = 2**63  # for the integers of torch


def option(
    default: Any,
    help: str,
    *,
    choices: Collection[str] = (),
    least: int | None = None,
    below: int | None = None,
    free: bool = False,
) -> Any:
    """Declare an option: a field of a section.

    Args:
        default: the default; an option has the type of its default.
        help: one line for `--help`.
        choices: all allowed values; empty allows any.
        least: the smallest allowed value, 0 or 1; None allows any.
        below: the allowed values are less than this; given together with `least`.
        free: whether the option may differ between a run and its continuation, because it changes no result.

    Returns:
        The field.
    """
    facts = {"help": help, "choices": choices, "least": least, "below": below, "free": free}
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Section:
    """Options that belong together. A value of another type or range raises ValueError, which names the option."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, choices = _exact(getattr(self, each.name), type(each.default), each.name), each.metadata["choices"]
            object.__setattr__(self, each.name, value)  # Python's own type, as config.json needs
            least, below = each.metadata["least"], each.metadata["below"]
            if choices and value not in choices:
                raise ValueError(f"{each.name} must be one of {', '.join(choices)}, got '{value}'")
            if below is not None and not least <= value < below:
                raise ValueError(f"{each.name} must be in [{least}, {below}), got {value}")
            if least is not None and value < least:
                raise ValueError(
                    f"{each.name} must {f'be at least {least}' if least else 'not be negative'}, got {value}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{each.name} must be finite, got {value}")
            if type(value) is int and value >= _TOO_LARGE:
                raise ValueError(f"{each.name} must be less than 2**63, got {str(value)[:40]}")


@dataclass(frozen=True)
class Config:
    """Base of a recipe's configuration: a frozen dataclass whose fields are sections.

    Every option has a name of its own, so callers name an option without its section.
    """

    @classmethod
    def options(cls) -> list[tuple[str, Field]]:
        """Every option with the name of its section, in order."""
        sections = [(section.name, fields(section.default_factory)) for section in fields(cls)]  # type: ignore[arg-type]
        return [(name, each) for name, options in sections for each in options]

    @classmethod
    def from_options(cls: type[C], **options: Any) -> C:
        """The defaults with some options changed: `from_options(data="videos", lr=5e-4)`.

        Args:
            **options: values by the name of the option.

        Returns:
            The configuration.

        Raises:
            TypeError: no section has an option of this name.
            ValueError: a value is not allowed, or values do not fit together.
        """
        return cls().with_options(**options)

    def with_options(self: C, **options: Any) -> C:
        """A copy with some options changed.

        Args:
            **options: values by the name of the option.

        Returns:
            The new configuration.

        Raises:
            TypeError: no section has an option of this name.
            ValueError: a value is not allowed, or values do not fit together.
        """
        section_of = {each.name: section for section, each in self.options()}
        changes: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            if name not in section_of:
                close = difflib.get_close_matches(name, section_of, 1)
                raise TypeError(f"{type(self).__name__} has no option '{name}'{f': {close[0]}?' if close else ''}")
            changes.setdefault(section_of[name], {})[name] = value
        return replace(self, **{name: replace(getattr(self, name), **given) for name, given in changes.items()})

    def flat(self) -> dict[str, Any]:
        """The options by name, without their sections."""
        return {each.name: getattr(getattr(self, section), each.name) for section, each in self.options()}

    def save(self, path: Path) -> None:
        """Write the configuration to `path` as JSON, one object per section; `read_options` reads it."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read_options(cls, path: Path) -> dict[str, Any]:
        """Read the options that a configuration file sets.

        Args:
            path: .toml, or .json such as the config.json of a checkpoint. The file holds sections; it may leave out
                sections and options.

        Returns:
            The values by the name of the option.

        Raises:
            ValueError: the file is no TOML or JSON, a section or option is unknown, or a value has the wrong type. The
                message names the file, the key and the allowed names or type.
            ImportError: the file is TOML, Python is 3.10, and the package tomli is missing.
        """
        known: dict[str, dict[str, type]] = {}
        for section, each in cls.options():
            known.setdefault(section, {})[each.name] = type(each.default)
        found: dict[str, Any] = {}
        for section, options in _read_sections(path).items():
            if section not in known:
                raise ValueError(f"{path}: unknown section '{section}'; sections are {', '.join(known)}")
            if not isinstance(options, dict):
                raise ValueError(f"{path}: section '{section}' must hold options, got {options!r}")
            for name, value in options.items():
                if name not in known[section]:
                    allowed = ", ".join(known[section])
                    raise ValueError(f"{path}: unknown option '{name}' in section '{section}'; options are {allowed}")
                found[name] = _typed(value, known[section][name], f"{path}: {section}.{name}")
        return found

    def check_continues(self, path: Path) -> None:
        """Check that a run with this configuration may continue a run with a saved one.

        Args:
            path: a file that `save` wrote.

        Raises:
            ValueError: an option differs that is not free; the message names every such option. Or the file is none
                that `save` wrote; see `read_options`.
        """
        saved = self.read_options(path)
        differing = []
        for section, each in self.options():
            was, now = saved.get(each.name), getattr(getattr(self, section), each.name)
            if was != now and not each.metadata["free"]:
                differing.append(f"{each.name}: was {was!r}, now {now!r}")
        if differing:
            raise ValueError("a run continues with the settings it began with, but " + "; ".join(differing))


def _read_sections(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        if path.suffix.lower() == ".toml":
            found = _toml().loads(text)
        elif path.suffix.lower() == ".json":
            found = parse_json(text)
        else:
            raise ValueError(f"a configuration is a .toml or .json file, got '{path}'")
    except (ValueError, RecursionError) as error:  # the errors of both parsers are ValueErrors
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold sections of options, got {type(found).__name__}")
    return found


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        return importlib.import_module("tomllib")
    try:
        return importlib.import_module("tomli")
    except ImportError as error:
        raise ImportError("a TOML file needs Python 3.11, or the package tomli: pip install tomli") from error


def _typed(value: Any, wanted: type, where: str) -> Any:
    """Check that `value` has the type `wanted`. An int is a float too; a bool is not a number."""
    if wanted is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{where} must be of type {wanted.__name__}, got {value!r:.100}")
    return value


def _exact(value: Any, wanted: type, name: str) -> Any:
    """`value` as the type `wanted`, if nothing is lost: numbers of numpy, and a path for a string, are allowed."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is int and is_number and hasattr(value, "__index__"):
        return operator.index(value)
    if wanted is float and is_number:
        with suppress(OverflowError):  # an integer beyond every float
            return float(value)
    if wanted is str and isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    kind = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[wanted]
    raise ValueError(f"{name} must be {kind}, got {str(value)[:40]!r} ({type(value).__name__})")
