"""Encode the videos of a list again so that they decode fast, and write the list of the new videos."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..._files import atomic_write, partial_path
from ..._text import printable
from ..bad_videos import BadVideo
from ..readers import VideoError
from ..sources.annotations import Annotations, FrameFolder, TarMember, VideoEntry, VideoFile
from ..sources.lists import read_lines
from .check import DataCheck, check_video, unreadable
from .encode import encode_video
from .process_pool import parallel_map

LIST_NAME = "list.txt"
_Encodable = VideoFile | TarMember
_MEASURED = 32  # videos, evenly spread, whose decoding is timed before and after


@dataclass(frozen=True)
class Transcoding:
    """The result of `transcode`.

    Sizes and speeds cover the videos of the new list whose originals still exist.

    Attributes:
        written: videos that this call wrote.
        present: videos that an earlier call wrote.
        bad_videos: videos that could not be read, with reasons; the new list leaves them out.
        bytes_before: total size of the originals.
        bytes_after: total size of the new videos.
        clips_per_second_before: originals' clips that one core opens and decodes in a second, measured on up to 32.
        clips_per_second_after: the same for the new videos.
        list_file: the new list.
    """

    written: int
    present: int
    bad_videos: list[BadVideo]
    bytes_before: int
    bytes_after: int
    clips_per_second_before: float
    clips_per_second_after: float
    list_file: Path

    def summary(self) -> str:
        """Summarise the result for the console.

        Returns:
            A few lines, and one line for each bad video.
        """
        gain = self.clips_per_second_after / max(self.clips_per_second_before, 1e-9)
        return "\n".join(
            [
                f"{self.written} videos written, {self.present} existed, {len(self.bad_videos)} could not be read",
                *(f"  bad: {printable(bad_video.path)}: {bad_video.reason}" for bad_video in self.bad_videos),
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
    short_side: int = 256,
    gop: int = 32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Transcoding:
    """Encode every video of a list into a folder, and write the new list there: `list.txt`.

    Videos keep their paths below `output` and end in .mp4. A video that exists is not written again, so a call
    continues an interrupted one. Each line of the new list keeps the further fields of the old line.

    Args:
        data: a list file, a folder or a tar file, as `read_annotations` reads them; no mixture.
        output: folder of the new videos; made if it does not exist.
        root: as in `read_annotations`.
        list_format: as in `read_annotations`.
        short_side: pixels; larger videos are scaled down to about this shorter side, other videos keep their size.
        gop: frames from one key frame to the next, at most.
        workers: processes. A process that a video crashes is replaced, and the video is reported as bad. 0 encodes in
            this process, which a crash ends.
        progress: called after each video with the number of videos done and of all videos.

    Returns:
        What was written, what could not be read, and the sizes and speeds before and after.

    Raises:
        FileNotFoundError: as `read_annotations`.
        ValueError: as `read_annotations`; also if a number is out of range, `output` holds the originals, an entry is a
            folder of frames, or two videos would get the same path.
        ImportError: PyAV is missing.
    """
    if short_side < 2 or gop < 1:
        raise ValueError(f"short_side must be at least 2 and gop at least 1, got {short_side} and {gop}")
    output = Path(output)
    list_file = output / LIST_NAME
    folder, lines = read_lines(data, root, list_format)
    if output.resolve() == folder.resolve() or list_file.resolve() == Path(data).resolve():
        raise ValueError(f"output {output} holds the originals: name another folder")
    targets = [output / _new_path(entry) for _, entry in lines]
    jobs = _jobs(targets, Annotations([entry for _, entry in lines], folder))
    present = sum(target.exists() for target in jobs)
    failed: dict[Path, BadVideo] = {}
    encode = partial(_encode_job, short_side=short_side, gop=gop)
    for done, (target, bad_video) in enumerate(parallel_map(encode, jobs.items(), workers, _job_died), 1):
        if bad_video is not None:
            failed[target] = bad_video
        if progress is not None:
            progress(done, len(jobs))
    good = {target: entry for target, entry in jobs.items() if target not in failed}
    kept = [(t, line, e) for t, (line, e) in zip(targets, lines, strict=True) if t in good]
    with atomic_write(list_file) as unfinished:
        text = "".join(f"{t.relative_to(output)}{_rest(line, entry)}\n" for t, line, entry in kept)
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
    existing = [(target, entry) for target, entry in good.items() if os.path.exists(entry.path)]
    measured = existing[:: max(1, len(existing) // _MEASURED)]
    return Transcoding(
        len(good) - present,
        present,
        list(failed.values()),
        sum(_size(entry) for _, entry in existing),
        sum(os.path.getsize(target) for target, _ in existing),
        _clips_per_second([entry for _, entry in measured], workers),
        _clips_per_second([VideoFile(str(target)) for target, _ in measured], workers),
        list_file,
    )


def _jobs(targets: list[Path], entries: Annotations) -> dict[Path, _Encodable]:
    """The video to encode for each new file; ValueError if two videos would get the same path."""
    jobs: dict[Path, _Encodable] = {}
    for target, labelled in zip(targets, entries, strict=True):
        if isinstance(labelled, FrameFolder):
            raise ValueError(f"{labelled.path} is a folder of frames: only videos can be encoded again")
        entry = labelled._replace(label=None)  # a list may name a video twice, with different labels
        if jobs.setdefault(target, entry) != entry:
            raise ValueError(f"{jobs[target].path} and {entry.path} would both be written to {target}")
    return jobs


def _new_path(entry: VideoEntry) -> Path:
    """Path of the new video, below the output folder."""
    inside = entry.member if isinstance(entry, TarMember) else ""
    parts = [part for part in Path(entry.path, inside).parts if part not in ("..", os.sep)]
    path = Path(*parts)
    return path if path.suffix == ".mp4" else path.with_name(path.name + ".mp4")


def _rest(line: str, entry: VideoEntry) -> str:
    """The part of a line after the path."""
    return line[len(entry.path) :]


def _size(entry: _Encodable) -> int:
    return entry.size if isinstance(entry, TarMember) else os.path.getsize(entry.path)


def _encode_job(job: tuple[Path, _Encodable], short_side: int, gop: int) -> tuple[Path, BadVideo | None]:
    target, entry = job
    try:
        if not target.exists():
            encode_video(entry, target, short_side, gop)
    except VideoError as error:
        return target, BadVideo(error.path, error.reason)
    return target, None


def _job_died(job: tuple[Path, _Encodable], reason: str) -> tuple[Path, BadVideo | None]:
    target, entry = job
    partial_path(target).unlink(missing_ok=True)  # the process that wrote it can no longer remove it
    return target, BadVideo(unreadable(entry, reason).path, reason)


def _clips_per_second(entries: Sequence[VideoEntry], workers: int) -> float:
    """Measure one video at a time; in another process unless `workers` is 0, because a decoder may crash."""
    return DataCheck(list(parallel_map(check_video, entries, min(workers, 1), unreadable))).clips_per_second
