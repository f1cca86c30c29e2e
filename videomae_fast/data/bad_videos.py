"""Videos that cannot be read: their record in a batch, and the report of a run."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .._text import printable, read_table, write_table

_REMEDY = "mend it, or remove the file, and the run counts its bad videos anew"
_FIRST_LOOK = 200  # samples: with fewer, a few bad videos say little about their share


class UnreadableVideosError(RuntimeError):
    """Too many videos could not be read. The message lists them with reasons, or names the report."""


class BadVideo(NamedTuple):
    """A video that was replaced because it cannot be read.

    Attributes:
        path: the video's path; for a member of a tar file, the tar file's path and the member's name.
        reason: why it cannot be read, in one line.
    """

    path: str
    reason: str


class BadVideoLog:
    """Counts how often each bad video was replaced. Each process of a run keeps one.

    The report is a table of `write_table`, one row per video: path, reason and count.

    Args:
        path: file of the report; None keeps the counts in memory only. If the file exists, an earlier part of the run
            wrote it, and counting continues from it.

    Attributes:
        path: as given.
        counts: how often each bad video was replaced.

    Raises:
        ValueError: the file was damaged; the message has the number of the line.
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.counts: dict[BadVideo, int] = {}
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def __len__(self) -> int:
        """The number of distinct bad videos."""
        return len({bad_video.path for bad_video in self.counts})

    @property
    def replaced(self) -> int:
        """How many times a video was replaced."""
        return sum(self.counts.values())

    def add(self, bad_videos: Iterable[BadVideo]) -> list[BadVideo]:
        """Count bad videos, and rewrite the report if there are any.

        Args:
            bad_videos: one element for each replacement, as `ClipBatch.bad_videos` lists them.

        Returns:
            The bad videos that were not seen before, without repetition.
        """
        bad_videos = list(bad_videos)
        new = [bad_video for bad_video in dict.fromkeys(bad_videos) if bad_video not in self.counts]
        for bad_video in bad_videos:
            self.counts[bad_video] = self.counts.get(bad_video, 0) + 1
        if bad_videos and self.path is not None:
            self._write(self.path)
        return new

    def check_share(self, max_share: float, seen: int, num_videos: int) -> None:
        """Stop a run when too many videos are bad.

        The share is the number of distinct bad videos among min(num_videos, max(seen, 200)) videos, so that a small
        data set is judged as a whole and a large one not by its first batch.

        Args:
            max_share: the largest share that is allowed, in [0, 1].
            seen: samples that this process has taken so far.
            num_videos: videos in the data set.

        Raises:
            UnreadableVideosError: the share is larger than `max_share`.
        """
        videos = min(num_videos, max(seen, _FIRST_LOOK))
        if len(self) > max_share * videos:
            raise UnreadableVideosError(
                f"{len(self)} of about {videos} videos could not be read, more than the share of {max_share:g} that is "
                f"allowed; they are listed with reasons in {printable(self.path or 'the log')}"
            )

    def _read(self, path: Path) -> None:
        try:
            rows = read_table(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{printable(path)} is damaged, it is no UTF-8 ({error}): {_REMEDY}") from None
        for number, row in enumerate(rows, 1):
            if len(row) != 3 or not re.fullmatch("[0-9]{1,18}", row[2]):
                raise ValueError(
                    f"{printable(path)}:{number}: expected path, reason and count, separated by tabs, got "
                    f"'{printable(row)[:200]}': {_REMEDY}"
                )
            self.counts[BadVideo(row[0], row[1])] = int(row[2])

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run killed while it writes leaves the previous report, whole.
        write_table(path, [(*bad_video, count) for bad_video, count in sorted(self.counts.items())])
