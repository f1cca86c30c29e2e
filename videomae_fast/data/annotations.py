"""Lists of videos on disk: the published annotation files, plain lists of paths, or a folder of videos.

Formats, one video per line, fields separated by runs of whitespace, blank lines ignored, further fields ignored:

* ``"v2"``    ``path start total``: VideoMAE V2 pre-training. ``total < 0``: `path` is a video file (`start` unused);
  otherwise `path` is a folder of `total` numbered images of which the first has number `start`.
* ``"v1"``    ``path label``: VideoMAE V1 and fine-tuning lists; the label is not read.
* ``"paths"`` the whole line is a path (the only format whose paths may contain spaces).
* ``"auto"``  decided by the first line that is not blank: two integers after the path: v2; one: v1; one field: paths.

Relative paths are relative to `root`; without it, to the folder that holds the list. Nothing else is tried.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMATS = ("auto", "v2", "v1", "paths")
VIDEO_SUFFIXES = (  # lower case
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
_CHECKED_PATHS = 8  # how many leading entries must all be missing for the root to be called wrong


class VideoEntry(NamedTuple):
    """One line: `total < 0` means `path` is a video file, else a folder of `total` images numbered from `start`."""

    path: str
    start: int = 0
    total: int = -1


class Annotations(Sequence[VideoEntry]):
    """Read-only sequence of `VideoEntry`, held in three arrays.

    A Python list of a million tuples is copied page by page into every forked worker, because reading an object
    writes its reference count; arrays stay shared.
    """

    def __init__(self, entries: Sequence[VideoEntry], root: str | os.PathLike = "") -> None:
        names = [os.fsencode(entry.path) for entry in entries]
        self.root = os.fspath(root)
        self._names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._span = np.array([(entry.start, entry.total) for entry in entries], dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> VideoEntry:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} annotations")
        index = int(index) % len(self)
        begin = self._ends[index - 1] if index else 0
        name = os.fsdecode(self._names[begin : self._ends[index]].tobytes())
        start, total = self._span[index]
        return VideoEntry(os.path.join(self.root, name), int(start), int(total))


def read_annotations(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> Annotations:
    """Read a list file (see the module's text for the formats), or search a folder for video files.

    A folder is searched recursively and in sorted order for the suffixes in `VIDEO_SUFFIXES`; `root` and
    `list_format` then do not apply.

    Errors: FileNotFoundError if `source` is missing, or if none of the first entries exists under `root` (a wrong
    root, rather than a few lost files); ValueError for an unknown `list_format`, an empty list, a malformed line (with
    its number), a folder without videos, or `root`/`list_format` given with a folder.
    Source: datasets/pretrain_datasets.py of VideoMAEv2 and docs/DATASET.md of VideoMAE.
    """
    if list_format not in FORMATS:
        raise ValueError(f"list_format must be one of {FORMATS}, got {list_format!r}")
    source = Path(source)
    if source.is_dir():
        if root is not None or list_format != "auto":
            raise ValueError(f"root and list_format describe list files, but {source} is a folder: leave them out")
        return _search_folder(source)
    if not source.is_file():
        raise FileNotFoundError(f"annotations: there is no list file and no folder at {source}")
    annotations = Annotations(_parse(source, list_format), source.parent if root is None else root)
    _check_root(annotations, source)
    return annotations


def _search_folder(folder: Path) -> Annotations:
    found = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
    )
    if not found:
        raise ValueError(f"no videos under {folder} (looked for {' '.join(VIDEO_SUFFIXES)}, in subfolders too)")
    return Annotations([VideoEntry(path) for path in found], folder)


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:  # any bytes may be in a path
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def _parse(source: Path, list_format: str) -> list[VideoEntry]:
    entries = []
    for number, line in _lines(source):
        if list_format == "auto":
            list_format = _guess_format(line, f"{source}:{number}")
        entries.append(_parse_line(line, list_format, f"{source}:{number}"))
    if not entries:
        raise ValueError(f"{source} has no entries")
    return entries


def _is_int(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", field) is not None


def _guess_format(line: str, where: str) -> str:
    fields = line.split()
    if len(fields) == 1:
        return "paths"
    if _is_int(fields[1]):
        return "v2" if len(fields) > 2 and _is_int(fields[2]) else "v1"
    raise ValueError(
        f"{where}: cannot tell the format of {line!r}: expected 'path start total' (v2), 'path label' (v1) or one "
        f"path without spaces; name it with list_format={FORMATS[1:]}"
    )


def _parse_line(line: str, list_format: str, where: str) -> VideoEntry:
    if list_format == "paths":
        return VideoEntry(line)
    fields = line.split()
    if list_format == "v1":
        if len(fields) < 2:
            raise ValueError(f"{where}: expected 'path label', got {line!r}")
        return VideoEntry(fields[0])
    if len(fields) < 3 or not (_is_int(fields[1]) and _is_int(fields[2])):
        raise ValueError(f"{where}: expected 'path start total' with two integers, got {line!r}")
    start, total = int(fields[1]), int(fields[2])
    if total == 0 or (total > 0 and start < 0):
        raise ValueError(f"{where}: expected total < 0 (a video file) or total > 0 and start >= 0, got {line!r}")
    return VideoEntry(fields[0], start, total)


def _check_root(annotations: Annotations, source: Path) -> None:
    first = [annotations[i].path for i in range(min(_CHECKED_PATHS, len(annotations)))]
    if not any(os.path.exists(path) for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} entries of {source} exists under root={annotations.root!r} "
            f"(the first is {first[0]}): pass the folder that the paths are relative to as root"
        )
