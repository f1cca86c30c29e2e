"""Predicted figures kept on disk, keyed by settings, versions and sources, so that none can be stale."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .._files import atomic_write
from .figures import MemoryFigures

VERSIONS = ("torch", "numpy", "transformers")  # packages whose code takes part in a prediction


class PredictionCache:
    """A folder of figures, one file a prediction.

    The name of a file is a hash of the settings, of the installed versions of `VERSIONS`, and of the sources of
    `packages`: a change of any of these gives a new prediction. A file that cannot be read counts as missing.

    Args:
        folder: folder of the files; made when the first file is written.
        packages: folders of Python sources that decide the figures.
    """

    def __init__(self, folder: Path, packages: Iterable[Path]) -> None:
        self.folder = folder
        self._sources = hash_sources(packages)

    def load(self, settings: Mapping[str, Any]) -> MemoryFigures | None:
        """Read figures.

        Args:
            settings: plain values that decide the figures.

        Returns:
            The figures kept for `settings`, or None.
        """
        try:
            return MemoryFigures.from_json(json.loads(self._path(settings).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, settings: Mapping[str, Any], figures: MemoryFigures) -> None:
        """Keep figures. If the folder cannot be written, nothing is kept, and nothing is raised.

        Args:
            settings: plain values that decide the figures.
            figures: the prediction for `settings`.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path(settings)) as partial:
                partial.write_text(json.dumps(figures.to_json()), encoding="utf-8")
        except OSError:
            return

    def _path(self, settings: Mapping[str, Any]) -> Path:
        key = json.dumps([self._sources, installed_versions(), sorted(settings.items())])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def installed_versions() -> dict[str, str]:
    """The installed versions of `VERSIONS`.

    Returns:
        Version by package; "" for a package that is not installed.
    """
    found = {}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def hash_sources(packages: Iterable[Path]) -> str:
    """Hash the names and contents of all Python files below some folders.

    Args:
        packages: the folders.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
