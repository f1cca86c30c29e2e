"""Lists of videos on disk: the published annotation files, plain lists of paths, tar files, or a folder of videos.

`read_annotations` describes the formats. Names of classes and captions are not kept.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from .annotations import Annotations, Row, VideoEntry
from .shards import SHARD_SUFFIX, VIDEO_SUFFIXES, members

FORMATS = ("auto", "v2", "v1", "paths")
# Help texts of command lines: LIST_HELP for commands that take one source, DATA_HELP where a mixture is allowed too.
_ONE_SOURCE = "list file (one video per line), folder of videos (searched with its subfolders)"
LIST_HELP = f"{_ONE_SOURCE} or tar file of videos (.tar)"
DATA_HELP = f"{_ONE_SOURCE}, tar file of videos (.tar) or mixture of these (.json)"
ROOT_HELP = (
    "folder that relative paths in a list file are joined to (default: the folder that holds the list file; no other "
    "folder is tried)"
)
LIST_FORMAT_HELP = (
    "format of a list file: v2 (path start total [label]), v1 (path label), paths (one path per line), or auto, which "
    "decides by the first line"
)
_CHECKED_PATHS = 8  # if this many leading entries are all missing, the root must be wrong
_LABEL = re.compile(r"\+?\d{1,18}")  # fits in int64

Line = tuple[str, Row]


def read_annotations(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> Annotations:
    """Read the videos of a list file, a tar file or a folder.

    A list file has one video per line, in one of these formats; blank lines and further fields are ignored:

    * "v2": `path start total [label]`, of VideoMAE V2 pre-training. If total < 0, `path` is a video file and `start` is
      unused. Otherwise `path` is a folder of `total` numbered images, and the first has number `start`.
    * "v1": `path label`, of VideoMAE, VideoMAE V2 fine-tuning, and the Kinetics lists in that form.
    * "paths": the whole line is a path, which may contain spaces in this format only.
    * "auto": the first line decides: two integers after the path: v2; one integer: v1; one field: paths.

    A label is kept if it is an integer of at least 0. A path that ends in .tar stands for all videos in that file
    (WebDataset's shards), each with the label of the line.

    Args:
        source: the list file, tar file or folder. A folder is searched recursively and in sorted order for files with
            a suffix in `VIDEO_SUFFIXES` or .tar.
        root: folder that relative paths of a list file are joined to; by default the folder that holds the list. No
            other folder is tried. Not for a folder or a tar file.
        list_format: "auto", "v2", "v1" or "paths". Not for a folder or a tar file.

    Returns:
        The videos, in the order of the list.

    Raises:
        FileNotFoundError: `source` is missing, or none of the first entries exists under `root`: the root is wrong.
            A few missing files are no error here.
        ValueError: `list_format` is unknown, the list is empty, a line is malformed (the message has its number), a
            folder has no videos, a tar file is damaged, compressed or without videos, or `root` or `list_format` is
            given for a folder or a tar file.

    References:
        datasets/pretrain_datasets.py of VideoMAE V2 (v2); docs/DATASET.md of VideoMAE (v1).
    """
    folder, lines = _read(Path(source), root, list_format)
    return Annotations.from_rows((row for _, row in lines), folder)


def read_lines(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> tuple[Path, list[tuple[str, VideoEntry]]]:
    """Read what `read_annotations` reads, with the line of each entry.

    Args:
        source: as in `read_annotations`.
        root: as in `read_annotations`.
        list_format: as in `read_annotations`.

    Returns:
        The folder that paths are relative to, and for each video its line and its entry. Paths are as in the line.

    Raises:
        FileNotFoundError: as `read_annotations`.
        ValueError: as `read_annotations`.
    """
    folder, lines = _read(Path(source), root, list_format)
    return folder, [(line, row.entry()) for line, row in lines]


def _read(source: Path, root: str | os.PathLike | None, list_format: str) -> tuple[Path, Iterable[Line]]:
    """The folder that paths are relative to, and the lines. A list file is read lazily."""
    if list_format not in FORMATS:
        raise ValueError(f"list_format must be one of {FORMATS}, got {list_format!r}")
    if source.suffix.lower() == ".json":
        raise ValueError(f"{source} is a mixture of lists (see `read_mixture`): name one of its sources instead")
    is_shard = source.suffix == SHARD_SUFFIX
    if (source.is_dir() or is_shard) and (root is not None or list_format != "auto"):
        kind = "a tar file" if is_shard else "a folder"
        raise ValueError(f"root and list_format describe list files, but {source} is {kind}: leave them out")
    if source.is_dir():
        return source, _open_shards(((path, Row(path)) for path in _search(source)), source)
    if not source.is_file():
        raise FileNotFoundError(f"annotations: there is no list file and no folder at {source}")
    if is_shard:
        return source.parent, _open_shards([(source.name, Row(source.name))], source.parent)
    folder, lines = source.parent if root is None else Path(root), _parse(source, list_format)
    first = list(islice(lines, _CHECKED_PATHS))
    if not first:
        raise ValueError(f"{source} has no entries")
    _check_root(folder, [row.path for _, row in first], source)
    return folder, _open_shards(chain(first, lines), folder)


def _open_shards(lines: Iterable[Line], root: Path) -> Iterator[Line]:
    """The lines; the line of a tar file is repeated for each video in it."""
    for line, row in lines:
        if row.total < 0 and row.path.endswith(SHARD_SUFFIX):
            for member, start, size in members(root / row.path):
                yield line, Row(row.path, start, size=size, member=member, label=row.label)
        else:
            yield line, row


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


def _parse(source: Path, list_format: str) -> Iterator[Line]:
    with open(source, encoding="utf-8-sig", errors="surrogateescape") as file:  # any bytes may be in a path
        for number, text in enumerate(file, 1):
            line = text.strip()
            if not line:
                continue
            try:
                if list_format == "auto":
                    list_format = _guess_format(line)
                row = _parse_line(line, list_format)
            except ValueError as error:
                raise ValueError(f"{source}:{number}: {error}") from None
            yield line, row


def _guess_format(line: str) -> str:
    fields = line.split()
    if len(fields) == 1:
        return "paths"
    if _is_int(fields[1]):
        return "v2" if len(fields) > 2 and _is_int(fields[2]) else "v1"
    raise ValueError(
        f"cannot tell the format of {line!r}: expected 'path start total' (v2), 'path label' (v1) or one "
        f"path without spaces; name it with list_format={FORMATS[1:]}"
    )


def _parse_line(line: str, list_format: str) -> Row:
    if list_format == "paths":
        return Row(line)
    fields = line.split()
    if list_format == "v1":
        if len(fields) < 2:
            raise ValueError(f"expected 'path label', got {line!r}")
        return Row(fields[0], label=_label(fields[1]))
    if len(fields) < 3 or not (_is_int(fields[1]) and _is_int(fields[2])):
        raise ValueError(f"expected 'path start total' with two integers, got {line!r}")
    start, total = int(fields[1]), int(fields[2])
    if total == 0 or (total > 0 and start < 0):
        raise ValueError(f"expected total < 0 (a video file) or total > 0 and start >= 0, got {line!r}")
    return Row(fields[0], start, total, label=_label(fields[3]) if len(fields) > 3 else -1)


def _is_int(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", field) is not None


def _label(field: str) -> int:
    """The class number in a field; -1 if it has none."""
    return int(field) if _LABEL.fullmatch(field) else -1


def _check_root(root: Path, paths: list[str], source: Path) -> None:
    first = [os.path.join(root, path) for path in paths]
    if not any(os.path.exists(path) for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} entries of {source} exists under root={os.fspath(root)!r} "
            f"(the first is {first[0]}): pass the folder that the paths are relative to as root"
        )
