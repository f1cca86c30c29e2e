"""Mixture files: several sources of videos with weights.

A mixture file is a JSON list of sources:

    [{"data": "k400/train.csv", "root": "/data/k400"},
     {"data": "ssv2/train.csv", "weight": 0.5, "frame_stride": 2, "hflip": false, "template": "img_{:05}.jpg"},
     {"data": "webvid/"}]

`read_mixture` describes the keys.
"""

import os
from pathlib import Path
from typing import Any

from ..._json import parse_json, read_text
from ..._text import printable
from .annotations import Annotations
from .captions import read_captions
from .classes import read_classes
from .instructions import has_conversations, read_instructions
from .lists import read_annotations
from .mixture import Mixture, VideoSource, shown_value

_KEYS = {
    "data": str,
    "root": str,
    "format": str,
    "classes": str,
    "weight": (int, float),
    "frame_stride": int,
    "hflip": bool,
    "template": str,
}


def read_mixture(
    data: str | os.PathLike,
    root: str | os.PathLike | None = None,
    list_format: str = "auto",
    labelled: bool = False,
    captioned: bool = False,
    conversations: bool = False,
) -> Mixture:
    """Read a mixture file, or one source.

    A mixture file is a JSON list of sources; each is an object with these keys, of which only "data" is required:

    * "data": a list file, folder or tar file, relative to the mixture file.
    * "root", "format": `root` and `list_format` of `read_annotations`; "root" is relative to the mixture file.
    * "classes": a file of class names (`read_classes`), relative to the mixture file, that says what the class numbers
      of this source mean, so that sources with numbers of their own can be mixed. It is read if `labelled`.
    * "weight": how often each video of the source comes in an epoch (default 1): 2 is twice, 0.5 every other epoch.
    * "frame_stride": frames from one frame of a clip to the next (default: the run's).
    * "hflip": false where left and right matter: crops are not flipped in a run that flips others (default: true).
    * "template": names of the images in folders of frames (default "img_{:05}.jpg").

    Args:
        data: a mixture file (.json), or anything that `read_annotations` reads: a mixture of one source.
        root: as in `read_annotations`; not for a mixture file.
        list_format: as in `read_annotations`; not for a mixture file.
        labelled: as in `read_annotations`. `number_classes` then numbers the classes of all sources together.
        captioned: whether the sources have captions. Each is then what `read_captions` reads, which takes no format,
            and has no "classes".
        conversations: whether, if `captioned`, sources may be what `read_instructions` reads, too: a list is known by
            the keys of its first entry.

    Returns:
        The mixture.

    Raises:
        FileNotFoundError: as `read_annotations` and `read_classes`; if `captioned`, as `read_captions`.
        ValueError: as `read_annotations`, `read_classes`, `VideoSource` and `parse_json`; if `captioned`, as
            `read_captions`, and with `conversations` as `read_instructions`. Also if the mixture file is malformed (the
            message names the source), `root` or `list_format` is given with it, `captioned` with a format, classes or
            `labelled`, or conversations are named without `conversations`.
    """
    path = Path(data)
    kinds = (labelled, captioned, conversations)
    if path.suffix.lower() != ".json" or (captioned and has_conversations(path)):
        return Mixture([VideoSource(_annotations(path, root, list_format, *kinds))])
    shown = printable(path)
    if root is not None or list_format != "auto":
        raise ValueError(f"root and list_format are given for each source in {shown}: leave them out")
    try:
        listed = parse_json(read_text(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no mixture file at {shown}") from None
    except ValueError as error:
        raise ValueError(f"{shown} is not JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{shown} must be a list of sources, got {type(listed).__name__} {shown_value(listed)}")
    return Mixture(
        [_read_source(source, path, f"{shown}, source {number}", *kinds) for number, source in enumerate(listed, 1)]
    )


def _annotations(
    path: Path, root: str | os.PathLike | None, list_format: str, labelled: bool, captioned: bool, conversations: bool
) -> Annotations:
    if not captioned:
        return read_annotations(path, root, list_format, labelled)
    if labelled:
        raise ValueError("labelled and captioned are for two kinds of lists: give one of them")
    if list_format != "auto":
        raise ValueError(
            f"the suffix of a list of captions is its format: leave out the format {shown_value(list_format)}"
        )
    if not has_conversations(path):
        return read_captions(path, root)
    if not conversations:
        raise ValueError(f"{printable(path)} has conversations, and captions are needed: only `caption` trains on both")
    return read_instructions(path, root)


def _read_source(
    given: Any, path: Path, where: str, labelled: bool, captioned: bool, conversations: bool
) -> VideoSource:
    if not isinstance(given, dict) or "data" not in given:
        raise ValueError(f'{where} must be an object with "data", got {shown_value(given)}')
    for key, value in given.items():
        if key not in _KEYS:
            raise ValueError(f"{where}: unknown key {shown_value(key)}; known are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool) != (_KEYS[key] is bool):  # type: ignore[arg-type]
            raise ValueError(f"{where}: {key} has the wrong type, got {shown_value(value)}")
    if captioned and "classes" in given:
        raise ValueError(f'{where}: videos with captions have no "classes"')
    root = path.parent / given["root"] if "root" in given else None
    try:
        list_format = given.get("format", "auto")
        kinds = (labelled, captioned, conversations)
        annotations = _annotations(path.parent / given["data"], root, list_format, *kinds)
        if labelled and "classes" in given:
            annotations = annotations.numbered_by(read_classes(path.parent / given["classes"]))
        own = ("weight", "frame_stride", "template", "hflip")
        return VideoSource(annotations, **{k: given[k] for k in own if k in given})
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
