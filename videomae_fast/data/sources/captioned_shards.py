"""Captions in tar files of WebDataset's layout: `x.mp4` or `x.jpg` beside `x.txt` or `x.json`."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..._json import parse_json
from ..._text import printable
from .annotations import Row
from .caption_lines import caption_texts, clean_caption
from .captioned import CaptionRow
from .fields import shown
from .shards import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Member, members

_TEXTS = (".txt", ".json")  # the first that a sample has is read
_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *_TEXTS)
_LARGEST = 1 << 20  # bytes of a text


def shard_rows(path: Path, name: str) -> Iterator[CaptionRow]:
    """The captioned videos and images of a tar file.

    `x.txt` is the caption of `x.mp4`. Without it, "caption" in `x.json` is: a text or a list of texts; other keys are
    not read, since the programs that write such files put much into them. The files of a sample may stand anywhere in
    the tar file.

    Args:
        path: an uncompressed tar file.
        name: its path in the rows.

    Yields:
        The rows, in the order of the videos and images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `members`; also if a video or image has no caption, an empty one or one that is no UTF-8, two
            have one name, or a caption has neither video nor image.
    """
    shown_path = printable(path)
    videos: dict[str, Member] = {}
    texts: dict[str, dict[str, Member]] = {}
    for member in members(path, _SUFFIXES):
        stem, suffix = os.path.splitext(member.member)
        if suffix.lower() in _TEXTS:
            texts.setdefault(stem, {})[suffix.lower()] = member
        elif videos.setdefault(stem, member) is not member:
            both = f"{printable(videos[stem].member)} and {printable(member.member)}"
            raise ValueError(f"{shown_path}: {both} have one caption file: one sample holds one of them")
    alone = next((stem for stem in texts if stem not in videos), None)
    if alone is not None:
        member = next(iter(texts[alone].values()))
        raise ValueError(f"{shown_path}: the caption {printable(member.member)} has no video and no image of its name")
    with open(path, "rb") as file:
        for stem, video in videos.items():
            if stem not in texts:
                wanted = " or ".join(printable(stem) + suffix for suffix in _TEXTS)
                raise ValueError(f"{shown_path}: {printable(video.member)} has no caption: expected {wanted}")
            text = next(texts[stem][suffix] for suffix in _TEXTS if suffix in texts[stem])
            try:
                if text.size > _LARGEST:
                    raise ValueError(f"it has {text.size} bytes, more than {_LARGEST}")
                file.seek(text.start)
                captions = _captions(file.read(text.size), text.member)
            except ValueError as error:
                raise ValueError(f"{shown_path}/{printable(text.member)}: {error}") from None
            yield CaptionRow(Row(name, video.start, size=video.size, member=video.member), captions)


def _captions(data: bytes, member: str) -> tuple[str, ...]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("the caption is no text in UTF-8") from None
    if not member.lower().endswith(".json"):
        return (clean_caption(text),)
    given = parse_json(text)
    if not isinstance(given, dict):
        raise ValueError(f'expected a JSON object with "caption", got {shown(text)}')
    return tuple(map(clean_caption, caption_texts(given, shown(text))))
