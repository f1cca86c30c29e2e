"""Encode the videos of a list once more so that they decode fast, and write the list of the results."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..bad_videos import VideoProblem
from ..readers import VideoError
from ..sources.annotations import Annotations, VideoEntry
from ..sources.lists import read_lines
from .check import DataCheck, check_video, unreadable
from .encode import encode_video
from .process_pool import parallel_map

LIST_NAME = "list.txt"
_MEASURED = 32  # videos, evenly spread, whose decoding is timed before and after


@dataclass(frozen=True)
class Transcoding:
    """What became of a list; sizes and speeds are of the videos in the new one whose originals are still there."""

    written: int
    present: int  # written by an earlier call
    problems: list[VideoProblem]
    bytes_before: int
    bytes_after: int
    clips_per_second_before: float  # opened and decoded by one core, measured on up to 32 videos
    clips_per_second_after: float
    list_file: Path

    def summary(self) -> str:
        """A few lines for the console."""
        gain = self.clips_per_second_after / max(self.clips_per_second_before, 1e-9)
        return "\n".join(
            [
                f"{self.written} videos written, {self.present} were there, {len(self.problems)} could not be read",
                *(f"  bad: {problem.path}: {problem.reason}" for problem in self.problems),
                f"size: {self.bytes_before / 2**20:.1f} MiB before, {self.bytes_after / 2**20:.1f} MiB after",
                f"decoding: {self.clips_per_second_before:.1f} clips/s per core before, "
                f"{self.clips_per_second_after:.1f} after ({gain:.2f}x)",
                f"list: {self.list_file}",
            ]
        )


def transcode(
    data: str | os.PathLike,
    output: str | os.PathLike,
    root: str | os.PathLike | None = None,
    list_format: str = "auto",
    *,
    short_side: int = 256,  # larger videos are scaled down to it; smaller ones keep their size
    gop: int = 32,  # frames from one key frame to the next
    workers: int = 0,  # processes; 0 encodes in this one, which a video that crashes its decoder then ends
    progress: Callable[[int, int], None] | None = None,  # called with the videos done and those in all
) -> Transcoding:
    """Encode every video of a list into the folder `output`, and write the list of them there: `list.txt`.

    Videos keep their paths below `output` and end in .mp4. One that is there is never written again, so a call that
    was interrupted goes on where it stopped; only the list is. Lines keep what follows the path. Videos that cannot be
    read, or that crash their decoder in a process other than this one, are reported and not in the new list.
    Errors: as `read_annotations`; ValueError for sizes out of range, an `output` that holds the originals, raw-frame
    folders (which are no videos), or two videos that would have one path.
    """
    if short_side < 2 or gop < 1:
        raise ValueError(f"short_side must be at least 2 and gop at least 1, got {short_side} and {gop}")
    output = Path(output)
    list_file = output / LIST_NAME
    folder, lines = read_lines(data, root, list_format)
    if output.resolve() == folder.resolve() or list_file.resolve() == Path(data).resolve():
        raise ValueError(f"output {output} holds the originals: name another folder")
    annotations = Annotations([entry for _, entry in lines], folder)
    targets = [output / _new_path(entry) for _, entry in lines]
    jobs: dict[Path, VideoEntry] = {}
    for target, entry in zip(targets, annotations, strict=True):
        if jobs.setdefault(target, entry) != entry:
            raise ValueError(f"{jobs[target].path} and {entry.path} would both be written to {target}")
    present = sum(target.exists() for target in jobs)
    failed: dict[Path, VideoProblem] = {}
    encode = partial(_encode_job, short_side=short_side, gop=gop)
    for done, (target, problem) in enumerate(parallel_map(encode, jobs.items(), workers, _job_died), 1):
        if problem is not None:
            failed[target] = problem
        if progress is not None:
            progress(done, len(jobs))
    good = {target: entry for target, entry in jobs.items() if target not in failed}
    kept = [(t, line, e) for t, (line, e) in zip(targets, lines, strict=True) if t in good]
    text = "".join(f"{t.relative_to(output)}{_rest(line, entry)}\n" for t, line, entry in kept)
    list_file.write_text(text, encoding="utf-8", errors="surrogateescape")
    there = [(target, entry) for target, entry in good.items() if os.path.exists(entry.path)]
    measured = there[:: max(1, len(there) // _MEASURED)]
    return Transcoding(
        len(good) - present,
        present,
        list(failed.values()),
        sum(entry.size or os.path.getsize(entry.path) for _, entry in there),
        sum(os.path.getsize(target) for target, _ in there),
        _clips_per_second([entry for _, entry in measured], workers),
        _clips_per_second([VideoEntry(str(target)) for target, _ in measured], workers),
        list_file,
    )


def _new_path(entry: VideoEntry) -> Path:
    """Where a video goes, below the output folder."""
    if entry.total >= 0:
        raise ValueError(f"{entry.path} is a raw-frame folder: only videos can be encoded again")
    parts = [part for part in Path(entry.path, entry.member).parts if part not in ("..", os.sep)]
    path = Path(*parts)
    return path if path.suffix == ".mp4" else path.with_name(path.name + ".mp4")


def _rest(line: str, entry: VideoEntry) -> str:
    """What follows the path in a line."""
    return line[len(entry.path) :]


def _encode_job(job: tuple[Path, VideoEntry], short_side: int, gop: int) -> tuple[Path, VideoProblem | None]:
    target, entry = job
    try:
        if not target.exists():
            encode_video(entry, target, short_side, gop)
    except VideoError as error:
        return target, VideoProblem(error.path, error.reason)
    return target, None


def _job_died(job: tuple[Path, VideoEntry], reason: str) -> tuple[Path, VideoProblem | None]:
    target, entry = job
    target.with_name(target.name + ".part").unlink(missing_ok=True)  # where `encode_video` was writing
    return target, VideoProblem(unreadable(entry, reason).path, reason)


def _clips_per_second(entries: list[VideoEntry], workers: int) -> float:
    """Measured one video at a time; not in this process where `workers` allow, as it could crash here too."""
    return DataCheck(list(parallel_map(check_video, entries, min(workers, 1), unreadable))).clips_per_second
