"""Lists of videos on disk: the published annotation files, plain lists of paths, or a folder of videos.

Formats, one video per line, fields separated by runs of whitespace, blank lines ignored, further fields ignored:

* ``"v2"``    ``path start total``: VideoMAE V2 pre-training. ``total < 0``: `path` is a video file (`start` unused);
  otherwise `path` is a folder of `total` numbered images of which the first has number `start`.
* ``"v1"``    ``path label``: VideoMAE V1 and fine-tuning lists; the label is not read.
* ``"paths"`` the whole line is a path (the only format whose paths may contain spaces).
* ``"auto"``  decided by the first line that is not blank: two integers after the path: v2; one: v1; one field: paths.

Relative paths are relative to `root`; without it, to the folder that holds the list. Nothing else is tried.

A path that ends in ``.tar`` stands for the videos in that file (WebDataset's shards); see `shards`. Such files can be
named in a list, lie in a folder, or be the source themselves.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .annotations import Annotations, VideoEntry
from .shards import SHARD_SUFFIX, VIDEO_SUFFIXES, members

FORMATS = ("auto", "v2", "v1", "paths")
_CHECKED_PATHS = 8  # how many leading entries must all be missing for the root to be called wrong


def read_annotations(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> Annotations:
    """Read a list file (see the module's text for the formats) or a tar file, or search a folder for them.

    A folder is searched recursively and in sorted order for the suffixes in `VIDEO_SUFFIXES` and ``.tar``. There and
    for a tar file `root` and `list_format` do not apply.

    Errors: FileNotFoundError if `source` is missing, or if none of the first entries exists under `root` (a wrong
    root, rather than a few lost files); ValueError for an unknown `list_format`, an empty list, a malformed line (with
    its number), a folder without videos, a tar file that is damaged, compressed or has no videos, or
    `root`/`list_format` given with a folder or a tar file.
    Source: datasets/pretrain_datasets.py of VideoMAEv2 and docs/DATASET.md of VideoMAE.
    """
    folder, lines = read_lines(source, root, list_format)
    return Annotations([entry for _, entry in lines], folder)


def read_lines(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> tuple[Path, list[tuple[str, VideoEntry]]]:
    """What `read_annotations` reads, with the line that each entry comes from; paths are relative to the folder."""
    if list_format not in FORMATS:
        raise ValueError(f"list_format must be one of {FORMATS}, got {list_format!r}")
    source = Path(source)
    if source.suffix.lower() == ".json":
        raise ValueError(f"{source} is a mixture of lists (see `read_mixture`): here one of them is needed")
    is_shard = source.suffix == SHARD_SUFFIX
    if (source.is_dir() or is_shard) and (root is not None or list_format != "auto"):
        kind = "a tar file" if is_shard else "a folder"
        raise ValueError(f"root and list_format describe list files, but {source} is {kind}: leave them out")
    if source.is_dir():
        return source, _open_shards([(path, VideoEntry(path)) for path in _search(source)], source)
    if not source.is_file():
        raise FileNotFoundError(f"annotations: there is no list file and no folder at {source}")
    if is_shard:
        return source.parent, _open_shards([(source.name, VideoEntry(source.name))], source.parent)
    folder, lines = source.parent if root is None else Path(root), _parse(source, list_format)
    _check_root(folder, [entry for _, entry in lines[:_CHECKED_PATHS]], source)
    return folder, _open_shards(lines, folder)


def _open_shards(lines: list[tuple[str, VideoEntry]], root: Path) -> list[tuple[str, VideoEntry]]:
    """The lines, with the one of a tar file repeated for each video in it."""
    opened: list[tuple[str, VideoEntry]] = []
    for line, entry in lines:
        if entry.total < 0 and entry.path.endswith(SHARD_SUFFIX):
            opened += [(line, VideoEntry(entry.path, *place)) for place in members(root / entry.path)]
        else:
            opened.append((line, entry))
    return opened


def _search(folder: Path) -> list[str]:
    found = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in (*VIDEO_SUFFIXES, SHARD_SUFFIX)
    )
    if not found:
        raise ValueError(f"no videos under {folder} (looked for {' '.join(VIDEO_SUFFIXES)}, in subfolders too)")
    return found


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:  # any bytes may be in a path
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def _parse(source: Path, list_format: str) -> list[tuple[str, VideoEntry]]:
    parsed = []
    for number, line in _lines(source):
        if list_format == "auto":
            list_format = _guess_format(line, f"{source}:{number}")
        parsed.append((line, _parse_line(line, list_format, f"{source}:{number}")))
    if not parsed:
        raise ValueError(f"{source} has no entries")
    return parsed


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


def _check_root(root: Path, entries: list[VideoEntry], source: Path) -> None:
    first = [os.path.join(root, entry.path) for entry in entries]
    if not any(os.path.exists(path) for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} entries of {source} exists under root={os.fspath(root)!r} "
            f"(the first is {first[0]}): pass the folder that the paths are relative to as root"
        )
