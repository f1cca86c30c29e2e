"""Videos that could not be read: what travels with a sample, and the report a run keeps of them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_FIRST_LOOK = 200  # samples: below that, a few bad videos say little about the share of them


class UnreadableVideosError(RuntimeError):
    """Too many videos could not be read; the message names them with their reasons, or the report that does."""


class VideoProblem(NamedTuple):
    """A video that was replaced, and why."""

    path: str
    reason: str


class ProblemLog:
    """Counts how often each unreadable video came up; kept by the training loop, in the main process.

    With a `path`, the report of an earlier part of the run is read first, so that a resumed run goes on counting.
    The report has one line per video: path, reason and count, separated by tabs.
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.counts: dict[VideoProblem, int] = {}
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                video, reason, count = line.rsplit("\t", 2)
                self.counts[VideoProblem(video, reason)] = int(count)

    def __len__(self) -> int:
        """The number of distinct bad videos."""
        return len({problem.path for problem in self.counts})

    @property
    def replaced(self) -> int:
        """How many times a video was replaced."""
        return sum(self.counts.values())

    def add(self, problems: Iterable[VideoProblem]) -> list[VideoProblem]:
        """Count `problems`, rewrite the report if there were any, and return those not seen before."""
        problems = list(problems)
        new = [problem for problem in dict.fromkeys(problems) if problem not in self.counts]
        for problem in problems:
            self.counts[problem] = self.counts.get(problem, 0) + 1
        if problems and self.path is not None:
            self._write(self.path)
        return new

    def check_share(self, max_share: float, seen: int, num_videos: int) -> None:
        """Raise `UnreadableVideosError` when more than `max_share` of the videos seen so far are bad.

        seen: samples taken so far, by this process; the share is that among min(num_videos, max(seen, 200)) videos,
            so that a small data set is judged as a whole and a large one not by its first batch.
        """
        videos = min(num_videos, max(seen, _FIRST_LOOK))
        if len(self) > max_share * videos:
            raise UnreadableVideosError(
                f"{len(self)} of about {videos} videos could not be read, more than the share of {max_share:g} that is "
                f"allowed; they are listed with reasons in {self.path or 'the log'}"
            )

    def _write(self, path: Path) -> None:
        lines = [f"{video}\t{reason}\t{count}\n" for (video, reason), count in sorted(self.counts.items())]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        os.replace(unfinished, path)  # a run killed here leaves the previous report, whole
