"""Files of features: where those of each video go, whether they are there already, and writing them."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .._files import NAME_ERRORS, atomic_write, disk_errors, path_inside
from .._json import parse_json, read_text
from .._text import printable
from ..data import FrameFolder, Mixture, TarMember, VideoEntry, VideoError


class FeatureFiles:
    """The features of the videos of a list, below a folder: `<video>.npy`, float32, and `<video>.json`, their facts.

    <video> is the path of the video in its list, without its suffix, and never leads out of the folder.

    Args:
        folder: of the files.
        videos: the list.
        settings: all that decides the features of a video; values that JSON holds.

    Attributes:
        numbers: of the videos, without repetitions: one that is listed again has its files already.

    Raises:
        ValueError: two videos would have one file.
    """

    def __init__(self, folder: Path, videos: Mixture, settings: dict[str, Any]) -> None:
        self.folder, self.videos, self.settings = folder, videos, settings
        self.numbers: list[int] = []
        first: dict[Path, VideoEntry] = {}
        for number in range(len(videos)):
            entry = videos[number]._replace(label=None)
            try:
                path = self._path(number)
            except VideoError:
                self.numbers.append(number)  # `is_done` raises it again, where the video is reported
                continue
            if path not in first:
                self.numbers.append(number)
            if (other := first.setdefault(path, entry)) != entry:
                raise ValueError(
                    f"the features of {_shown(other)} and {_shown(entry)} would have one file, {printable(path)}.npy: "
                    "rename one of the videos, or extract them into two folders"
                )

    def is_done(self, number: int) -> bool:
        """Whether a video has its features, whole and made with the same settings.

        Args:
            number: of the video in the list.

        Returns:
            False if one of the files is missing.

        Raises:
            VideoError: no file can have the name of the video.
            ValueError: a file is damaged, was made with other settings, or is of another video of this name.
        """
        values, facts = self._files(number)
        if not (values.is_file() and facts.is_file()):
            return False
        made = _read_facts(facts)
        differing = [name for name in self.settings if made["settings"].get(name) != self.settings[name]]
        if differing:
            raise ValueError(
                f"{printable(values)} was made with other settings ({', '.join(differing)}): choose another output "
                "folder"
            )
        size = _size(self.videos[number])
        if size is not None and made.get("video_size") != size:
            raise ValueError(
                f"{printable(values)} has the features of another video of this name, of size "
                f"{printable(made.get('video_size'))} where {_shown(self.videos[number])} has {size}: choose another "
                "output folder"
            )
        _check_whole(values, made.get("shape"))
        return True

    def write(self, number: int, values: np.ndarray, facts: dict[str, Any]) -> None:
        """Write the features of a video; each file is whole or absent.

        Args:
            number: of the video in the list.
            values: (n, …) float32.
            facts: what the JSON file has beside shape, settings and size of the video.

        Raises:
            VideoError: no file can have the name of the video.
            OSError: the disk is full or broken.
        """
        entry = self.videos[number]
        file, beside = self._files(number)
        facts = facts | {"shape": list(values.shape), "video_size": _size(entry), "settings": self.settings}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(file), atomic_write(file) as partial, open(partial, "wb") as stream:
                np.save(stream, values)
            with disk_errors(beside), atomic_write(beside) as partial:
                partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        except OSError as error:
            if error.errno in NAME_ERRORS:
                raise VideoError(
                    entry.name, f"{printable(file)} cannot be the name of its features ({error.strerror})"
                ) from error
            raise

    def _files(self, number: int) -> tuple[Path, Path]:
        """The two files; names of videos may have dots of their own."""
        path = self._path(number)
        return path.with_name(f"{path.name}.npy"), path.with_name(f"{path.name}.json")

    def _path(self, number: int) -> Path:
        entry, root = self.videos[number], self.videos.source(number).annotations.root
        try:
            inside = path_inside(self.folder, entry.name.removeprefix(root) if root else entry.name)
        except ValueError as error:
            raise VideoError(entry.name, f"its features have no place: {printable(error)}") from error
        return inside if isinstance(entry, FrameFolder) else inside.with_name(os.path.splitext(inside.name)[0])


def _shown(entry: VideoEntry) -> str:
    """A video in a message; two videos of one name are parts of a folder of frames."""
    return printable(entry.name) + (f" from image {entry.start} on" if isinstance(entry, FrameFolder) else "")


def _size(entry: VideoEntry) -> int | None:
    """Bytes of a video or images of a folder, which tell it from most others of its name; None if it is gone."""
    if isinstance(entry, FrameFolder):
        return entry.num_frames
    if isinstance(entry, TarMember):
        return entry.size
    try:
        return os.path.getsize(entry.path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = parse_json(read_text(path))
        if not isinstance(facts, dict) or not isinstance(facts.get("settings"), dict):
            raise ValueError("it has no settings")
    except ValueError as error:
        raise ValueError(
            f"{printable(path)} is damaged: delete it, and its video is read again ({printable(error)})"
        ) from error
    return facts


def _check_whole(path: Path, shape: object) -> None:
    """Check the header and the length of a file that `np.save` wrote."""
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            found, _, dtype = np.lib.format.read_array_header_1_0(file)
            there = os.fstat(file.fileno()).st_size - file.tell()
        if list(found) != shape or there != math.prod(found) * dtype.itemsize:
            raise ValueError(f"{there} bytes of shape {found} where {printable(shape)} was written")
    except ValueError as error:
        raise ValueError(
            f"{printable(path)} is damaged: delete it, and its video is read again ({printable(error)})"
        ) from error
