"""Captioned videos and images on disk: lists of them, tar files, and folders of tar files."""

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from ..._text import printable
from .caption_lines import PARSERS, parse_caption_lines
from .captioned import CaptionedVideos, CaptionRow
from .captioned_shards import shard_rows
from .list_index import Shards, indexed, is_long
from .lists import CHECKED_PATHS, check_root, check_text, numbered_lines
from .shards import SHARD_SUFFIX

CAPTIONS_HELP = (
    "list of videos and images with captions (.tsv, .csv, .jsonl), tar file of them (.tar), folder of tar files, or "
    "mixture of these (.json)"
)


def read_captions(source: str | os.PathLike, root: str | os.PathLike | None = None) -> CaptionedVideos:
    """Read captioned videos and images.

    A list is text in UTF-8 (other bytes may stand in paths), and its suffix is its format:

    * ".tsv" and ".csv": values separated by tabs or commas, quoted as in RFC 4180. The first line names the columns:
      `path` and `caption`, and if wanted `start` and `end`. More columns called `caption` hold more captions; in a line
      with fewer, they are empty, but not the first.
    * ".jsonl": a JSON object a line, with the keys path, caption (a text or a list of texts) and if wanted start, end.

    `start` and `end` are seconds of the video: the clip is the part between them, to the video's end without `end`.
    A path that ends in .jpg, .jpeg, .png or .webp is an image. Of white space in a caption, each run is one space.

    A tar file has the layout of WebDataset: the caption of `x.mp4` or `x.jpg` is in `x.txt`, or in `x.json` under
    "caption" (a text or a list of texts).

    A list of 16 MiB or more has an index in the user's cache, as `read_annotations` describes it.

    Args:
        source: a list, a tar file, or a folder: all tar files in it, at any depth, in sorted order.
        root: folder that relative paths of a list are joined to; by default the folder that holds the list. Not for a
            folder or a tar file.

    Returns:
        The videos and images, in the order of the list.

    Raises:
        FileNotFoundError: `source` is missing, or none of the first entries exists under `root`.
        ValueError: the suffix is another, `source` is no regular file or no text, the list is empty, a line is
            malformed (the message has its number), a column is unknown, a caption is missing, empty or without a video,
            start is not before end, an image has a start or end, a tar file is damaged, or `root` is given for a folder
            or a tar file.
    """
    path = Path(source)
    shown = printable(path)
    is_folder, is_shard = os.path.isdir(path), path.suffix == SHARD_SUFFIX
    if (is_folder or is_shard) and root is not None:
        raise ValueError(f"root is for lists, but {shown} is {'a folder' if is_folder else 'a tar file'}: leave it out")
    if is_folder:
        names = _shards(path)
        return CaptionedVideos.from_rows(chain.from_iterable(shard_rows(path / name, name) for name in names), path)
    if is_shard and os.path.exists(path):
        return CaptionedVideos.from_rows(shard_rows(path, path.name), path.parent)
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ValueError(f"captions: {shown} is a pipe or device, no list, tar file or folder")
        raise FileNotFoundError(f"captions: there is nothing at {shown}: name a {CAPTIONS_HELP}")
    if path.suffix.lower() not in PARSERS:
        raise ValueError(f"captions: expected a {CAPTIONS_HELP}, got {shown}")
    check_text(path)
    folder, rows = path.parent if root is None else Path(root), _rows(path)
    first = list(islice(rows, CHECKED_PATHS))
    if not first:
        raise ValueError(f"{shown} has no entries")
    check_root(folder, [captioned.row.path for captioned in first], path)
    if is_long(path, ()):

        def build(columns: Path | None, shards: Shards) -> CaptionedVideos:
            return CaptionedVideos.from_rows(_rows(path), folder, columns)

        return indexed(path, folder, {}, CaptionedVideos, build)
    return CaptionedVideos.from_rows(chain(first, rows), folder)


def _shards(folder: Path) -> list[str]:
    found = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.endswith(SHARD_SUFFIX)
    )
    if not found:
        raise ValueError(
            f"no tar files under {printable(folder)} (looked for {SHARD_SUFFIX}, in subfolders too): videos in a "
            "folder need a list with their captions"
        )
    return found


def _rows(path: Path) -> Iterator[CaptionRow]:
    with numbered_lines(path) as texts:
        yield from parse_caption_lines(texts, path.suffix.lower())
