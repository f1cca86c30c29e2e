"""Lists of videos on disk: the published annotation files, plain lists of paths, tar files, or a folder of videos.

`read_annotations` describes the formats. Lists with captions are read elsewhere (captions.py).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from ..._text import printable
from .annotations import Annotations, Row, VideoEntry
from .classes import NO_CLASS
from .fields import shown
from .lines import FORMATS, check_guesses, format_line, guess_format, parse_lines, rest_of_line
from .list_index import Shards, file_state, indexed, is_long
from .shards import SHARD_SUFFIX, VIDEO_SUFFIXES, members

# Help texts of command lines: LIST_HELP for commands that take one source, DATA_HELP where a mixture is allowed too.
_ONE_SOURCE = "list file (one video per line), folder of videos (searched with its subfolders)"
LIST_HELP = f"{_ONE_SOURCE} or tar file of videos (.tar)"
DATA_HELP = f"{_ONE_SOURCE}, tar file of videos (.tar) or mixture of these (.json)"
ROOT_HELP = (
    "folder that relative paths in a list file are joined to (default: the folder that holds the list file; no other "
    "folder is tried)"
)
# Where a command reads several sources.
EVERY_LIST = "; for every option that names a list file, and not for folders, tar files and mixtures beside them"
LIST_FORMAT_HELP = (
    "format of a list file: v2 (path start total [label]), v1 (path label), frames (path total label, a folder of "
    "images from number 1), csv (path,label or the columns of the Kinetics files), paths (one path per line), or auto: "
    "the first line decides"
)
CHECKED_PATHS = 8  # if this many leading entries are all missing, the root must be wrong
_LOOKED_AT = 4096  # bytes
_OTHER_FILES = (
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)

Line = tuple[str, Row]


class _Listed(NamedTuple):
    """A source that is being read.

    Attributes:
        folder: what paths are relative to.
        lines: the lines; those of a list file are read lazily.
        first: the first paths of a list file.
    """

    folder: Path
    lines: Iterable[Line]
    first: list[str]


def read_annotations(
    source: str | os.PathLike,
    root: str | os.PathLike | None = None,
    list_format: str = "auto",
    labelled: bool = False,
) -> Annotations:
    """Read the videos of a list file, a tar file or a folder.

    A list file is text in UTF-8 (other bytes may stand in paths) with one video per line, in one of these formats;
    blank lines and further fields are ignored:

    * "v2": `path start total [label]`, of VideoMAE V2 pre-training. If total < 0, `path` is a video file and `start` is
      unused. Otherwise `path` is a folder of `total` numbered images, and the first has number `start`.
    * "v1": `path label`, of VideoMAE, VideoMAE V2 fine-tuning, and the Kinetics lists in that form.
    * "frames": `path total label`, of VideoMAE V2 fine-tuning on Something-Something V2: a folder of `total` images,
      and the first has number 1.
    * "csv": `path,label`, comma-separated as in RFC 4180. A first line may name columns: path and label, or those of
      the official Kinetics files, label, youtube_id, time_start and time_end, whose videos have the names
      {youtube_id}_{time_start:06}_{time_end:06}.mp4.
    * "paths": the whole line is a path, which may contain spaces in this format only.
    * "auto": the first line decides: two integers after the path: v2 (frames if `labelled` and the line ends there);
      one integer: v1; `path,integer`, or `path,name` or `path name` if the path ends like a video's: csv and v1; one
      field: paths.

    In every format but csv a path may stand in double quotes with JSON's escapes: `"with space.mp4" 3`. White space or
    the end of the line follows the quotes (in "paths": the end of the line); otherwise the line is plain, and its
    quotes belong to the path.

    A label is a class number of at least 0, or a class name, which may hold spaces. A negative number is no label. A
    path that ends in .tar stands for all videos in that file (WebDataset's shards), each with the label of the line.
    Videos of a folder have the name of its subfolder as class name, at any depth below it: `root/class name/video.mp4`.
    This holds for folders in a tar file too, if neither a line nor a folder around the tar file has a label.

    A list file of 16 MiB or more, together with the tar files that its first lines name, is parsed once. Then its index
    in the user's cache is opened, which takes no memory of the process, until the list or a tar file changes.

    Args:
        source: the list file, tar file or folder. A folder is searched recursively and in sorted order for files with
            a suffix in `VIDEO_SUFFIXES` or .tar.
        root: folder that relative paths of a list file are joined to; by default the folder that holds the list. No
            other folder is tried. Not for a folder or a tar file.
        list_format: "auto", "v2", "v1", "frames", "csv" or "paths". Not for a folder or a tar file.
        labelled: whether every video must have a label. Class names are then kept and number the classes in sorted
            order; `number_classes` gives them other numbers. Otherwise class numbers are kept where there are some, and
            names are not.

    Returns:
        The videos, in the order of the list.

    Raises:
        FileNotFoundError: `source` is missing, or none of the first entries exists under `root`: the root is wrong.
            A few missing files are no error here.
        ValueError: `list_format` is unknown, `source` is no regular file or no text, the list is empty, a line is
            malformed or a number has more than 18 digits (the message has the number of the line), a folder has no
            videos, a tar file is damaged, compressed or without videos, or `root` or `list_format` is given for a
            folder or a tar file. If `labelled`: a label is missing (the message has the number of the line, or the
            video), or some are numbers and others names.

    References:
        datasets/pretrain_datasets.py of VideoMAE V2 (v2); docs/DATASET.md of VideoMAE (v1); dataset/datasets.py of
        VideoMAE V2, RawFrameClsDataset (frames).
    """
    path = Path(source)
    listed = _read(path, root, list_format, labelled)

    def build(folder: Path | None, shards: Shards) -> Annotations:
        lines = _read(path, root, list_format, labelled, shards).lines
        return Annotations.from_rows((row for _, row in lines), listed.folder, labelled, folder)

    shards = [listed.folder / name for name in listed.first if name.endswith(SHARD_SUFFIX)]
    if listed.first and is_long(path, shards):
        options = {"format": list_format, "labelled": labelled}
        return indexed(path, listed.folder, options, Annotations, build)
    return Annotations.from_rows((row for _, row in listed.lines), listed.folder, labelled)


def is_list_file(source: str | os.PathLike) -> bool:
    """Whether a source of videos is a list file, which `root` and `list_format` describe.

    Args:
        source: as in `read_annotations`, or a mixture.

    Returns:
        False for a folder, a tar file, a mixture, and for what does not exist.
    """
    return os.path.isfile(source) and Path(source).suffix.lower() not in (SHARD_SUFFIX, ".json")


def read_lines(
    source: str | os.PathLike, root: str | os.PathLike | None = None, list_format: str = "auto"
) -> tuple[Path, list[tuple[str, VideoEntry]]]:
    """Read what `read_annotations` reads, for a new list of the same videos, which `format_line` writes.

    Args:
        source: as in `read_annotations`.
        root: as in `read_annotations`.
        list_format: as in `read_annotations`. The new list has the same format; comma-separated values have no column
            names there.

    Returns:
        The folder that paths are relative to, and for each video what follows the path in its line, and its entry.
        Paths are as in the line.

    Raises:
        FileNotFoundError: as `read_annotations`.
        ValueError: as `read_annotations`; also if `list_format` is "auto" and a line, as the first one of the new list,
            would show another format.
    """
    folder, read, _ = _read(Path(source), root, list_format)
    lines = list(read)
    rests = [rest_of_line(line, row.path) for line, row in lines]
    if list_format == "auto":
        guessed = "csv" if rests[0].startswith(",") else guess_format(lines[0][0])
        check_guesses((line for line, _ in lines), guessed)
    return folder, [(rest, row.entry()) for rest, (_, row) in zip(rests, lines, strict=True)]


def _read(
    source: Path,
    root: str | os.PathLike | None,
    list_format: str,
    labelled: bool = False,
    shards: Shards | None = None,
) -> _Listed:
    """Begin to read a source; `shards` gets the state of each tar file that is read."""
    if list_format not in FORMATS:
        raise ValueError(f"list_format must be one of {FORMATS}, got {list_format!r}")
    if source.suffix.lower() == ".json":
        raise ValueError(
            f"{printable(source)} is a mixture of lists (see `read_mixture`): name one of its sources instead"
        )
    is_shard = source.suffix == SHARD_SUFFIX
    is_folder = os.path.isdir(source)  # False for a name that no file can have
    if (is_folder or is_shard) and (root is not None or list_format != "auto"):
        kind = "a tar file" if is_shard else "a folder"
        raise ValueError(f"root and list_format describe list files, but {printable(source)} is {kind}: leave them out")
    if is_folder:
        rows = (Row(path, class_name=_class_folder(path)) for path in _search(source))
        return _Listed(source, _open_shards(((format_line(row.path), row) for row in rows), source, shards), [])
    if not (os.path.isfile(source) or (is_shard and os.path.exists(source))):
        raise _no_list(source)
    if is_shard:
        line = (format_line(source.name), Row(source.name))
        return _Listed(source.parent, _open_shards([line], source.parent, shards), [])
    check_text(source)
    folder, lines = source.parent if root is None else Path(root), _parse(source, list_format, labelled)
    first = list(islice(lines, CHECKED_PATHS))
    if not first:
        raise ValueError(f"{printable(source)} has no entries")
    paths = [row.path for _, row in first]
    check_root(folder, paths, source)
    return _Listed(folder, _open_shards(chain(first, lines), folder, shards), paths)


def _open_shards(lines: Iterable[Line], root: Path, shards: Shards | None) -> Iterator[Line]:
    """The lines; the line of a tar file is repeated for each video in it."""
    for line, row in lines:
        if row.total < 0 and row.path.endswith(SHARD_SUFFIX):
            if shards is not None:
                shards[row.path] = file_state(root / row.path)
            for member, start, size in members(root / row.path):
                name = row.class_name or ("" if row.label >= 0 else _class_folder(member))
                yield line, Row(row.path, start, size=size, member=member, label=row.label, class_name=name)
        else:
            yield line, row


def _class_folder(path: str) -> str:
    """The first folder of a path; empty if it has none."""
    folders = [part for part in path.split("/")[:-1] if part not in ("", ".", "..")]
    return folders[0] if folders else ""


def _search(folder: Path) -> list[str]:
    found = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in (*VIDEO_SUFFIXES, SHARD_SUFFIX)
    )
    if not found:
        raise ValueError(
            f"no videos under {printable(folder)} (looked for {' '.join(VIDEO_SUFFIXES)}, in subfolders too)"
        )
    return found


def _parse(source: Path, list_format: str, labelled: bool) -> Iterator[Line]:
    with numbered_lines(source) as texts:
        for line, row in parse_lines(texts, list_format, labelled):
            if labelled and row.label < 0 and not (row.class_name or row.path.endswith(SHARD_SUFFIX)):
                raise ValueError(f"{shown(line)} has no label: {NO_CLASS}")
            yield line, row


@contextmanager
def numbered_lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a list file, any bytes of which may stand in paths.

    Args:
        path: of the file.

    Yields:
        An iterator over the lines.

    Raises:
        ValueError: one was raised within the context; its message then begins with the file and the last line read.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        number = 0

        def numbered() -> Iterator[str]:
            nonlocal number
            for number, text in enumerate(file, 1):  # noqa: B007  # read below
                yield text

        try:
            yield numbered()
        except ValueError as error:
            raise ValueError(f"{printable(path)}:{number}: {error}") from None


def _no_list(source: Path) -> ValueError | FileNotFoundError:
    if os.path.exists(source):
        return ValueError(f"annotations: {printable(source)} is a pipe or device, no list file, folder or tar file")
    return FileNotFoundError(
        f"annotations: there is no list file and no folder at {printable(source)}: name a {DATA_HELP}"
    )


def check_text(source: Path) -> None:
    """Refuse files that are no text, before a long search for their first line.

    Args:
        source: a list file.

    Raises:
        ValueError: it is a video, compressed, UTF-16 or binary.
    """
    if source.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(f"{printable(source)} is a video, no list file: name its folder, or a list that names it")
    with open(source, "rb") as file:
        begin = file.read(_LOOKED_AT)
    kind = next((name for magic, name in _OTHER_FILES if begin.startswith(magic)), "binary" if b"\0" in begin else "")
    if kind:
        raise ValueError(f"{printable(source)} is no list file: it is {kind}; a list file is text in UTF-8")


def check_root(root: Path, paths: list[str], source: Path) -> None:
    """Check that the root is the right one.

    Args:
        root: folder that the paths are relative to.
        paths: the first paths of a list.
        source: the list, for the error.

    Raises:
        FileNotFoundError: none of the paths exists.
    """
    first = [os.path.join(root, path) for path in paths]
    if not any(os.path.exists(path) for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} entries of {printable(source)} exists under root='{printable(root)}' "
            f"(the first is {printable(first[0])[:1000]}): pass the folder that the paths are relative to as root"
        )
