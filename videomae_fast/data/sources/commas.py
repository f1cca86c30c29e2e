"""Lists of comma-separated values: `path,label`, and the official files of Kinetics.

Fields are written as RFC 4180 says: a field with a comma, a quote or a line end is in double quotes, and a quote in it
is doubled. A first line of column names may say where path and label are.
"""

import csv
import re
from collections.abc import Iterator

from .annotations import Row
from .fields import INTEGER, check_path, parse_label, shown
from .shards import SHARD_SUFFIX, VIDEO_SUFFIXES

_CLIP_COLUMNS = ("youtube_id", "time_start", "time_end")
_SECONDS = re.compile(r"\d{1,6}")


def names_video(text: str) -> bool:
    """Whether a text ends like the name of a video or tar file.

    Args:
        text: a field or a line.

    Returns:
        Whether it does.
    """
    return text.lower().endswith((*VIDEO_SUFFIXES, SHARD_SUFFIX))


def is_csv(line: str) -> bool:
    """Whether a line, the first one of a list, is taken for comma-separated values.

    Args:
        line: without white space at its ends.

    Returns:
        True for column names, and for two fields of which the second is an integer, or the first names a video and the
        second does not.
    """
    if "," not in line:
        return False
    try:
        fields = [field.strip() for field in next(_reader(iter([line])))]
    except (csv.Error, StopIteration):
        return False
    if _is_header(fields):
        return True
    return len(fields) == 2 and (
        INTEGER.fullmatch(fields[1]) is not None or (names_video(fields[0]) and not names_video(fields[1]))
    )


def csv_field(text: str) -> str:
    """Write a field.

    Args:
        text: any text.

    Returns:
        The text, in quotes if it needs them.
    """
    plain = "," not in text and '"' not in text and text.isprintable() and text == text.strip()
    return text if plain else '"{}"'.format(text.replace('"', '""'))


def parse_csv(texts: Iterator[str]) -> Iterator[tuple[str, Row]]:
    """Parse comma-separated values.

    Args:
        texts: the lines of a file, with their ends.

    Yields:
        For each video the line `path,label` and its row. Of a file with the columns
        youtube_id, time_start and time_end, the path is {youtube_id}_{time_start:06}_{time_end:06}.mp4, the name that
        the usual tools give to a clip of Kinetics.

    Raises:
        ValueError: a line is malformed.
    """
    columns: list[str] | None = None
    try:
        for fields in _reader(texts):
            if not fields or (len(fields) == 1 and not fields[0].strip()):
                continue  # a blank line
            if columns is None:
                stripped = [field.strip() for field in fields]
                columns = stripped if _is_header(stripped) else ["path", "label"]
                if columns is stripped:
                    continue
            path, label = _path_and_label(fields, columns)
            line = f"{csv_field(path)},{csv_field(label)}"
            check_path(path, line)
            number, name = parse_label([label])
            yield line, Row(path, label=number, class_name=name)
    except csv.Error as error:
        raise ValueError(f"no comma-separated values ({error})") from None


def _reader(texts: Iterator[str]) -> Iterator[list[str]]:
    return csv.reader(texts, skipinitialspace=True, strict=True)


def _is_header(fields: list[str]) -> bool:
    return "path" in fields or set(_CLIP_COLUMNS) <= set(fields)


def _path_and_label(fields: list[str], columns: list[str]) -> tuple[str, str]:
    if len(fields) != len(columns):
        expected = ",".join(columns)
        raise ValueError(
            f"expected '{expected}', got {shown(','.join(map(csv_field, fields)))}: a field with a comma stands in "
            "double quotes"
        )
    of = dict(zip(columns, fields, strict=True))
    path = of["path"] if "path" in of else _clip_name(*(of[column].strip() for column in _CLIP_COLUMNS))
    return path, of.get("label", "").strip()


def _clip_name(youtube_id: str, start: str, end: str) -> str:
    if not (youtube_id and _SECONDS.fullmatch(start) and _SECONDS.fullmatch(end)):
        given = ",".join((youtube_id, start, end))
        raise ValueError(f"expected a youtube_id and two times in whole seconds, got {shown(given)}")
    return f"{youtube_id}_{int(start):06}_{int(end):06}.mp4"
