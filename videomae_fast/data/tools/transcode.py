"""Encode the videos of a list again so that they decode fast, and write the list of the new videos."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..._files import atomic_write, partial_path, path_inside, writable_folder
from ..._lock import lock_output
from ..._text import printable
from ..bad_videos import BadVideo, UnreadableVideosError
from ..readers import VideoError
from ..sources.annotations import Annotations, FrameFolder, TarMember, VideoEntry, VideoFile
from ..sources.lines import format_line
from ..sources.lists import read_lines
from .check import DataCheck, check_video, unreadable
from .encode import encode_video
from .process_pool import parallel_map

LIST_NAME = "list.txt"
_Encodable = VideoFile | TarMember
_Job = tuple[Path, _Encodable]
_Encoded = tuple[Path, BadVideo | None]
_MEASURED = 32  # videos, evenly spread, whose decoding is timed before and after


@dataclass(frozen=True)
class Transcoding:
    """The result of `transcode`.

    Sizes and speeds cover the videos of the new list whose originals still exist.

    Attributes:
        written: videos that this call wrote.
        present: videos that an earlier call wrote.
        bad_videos: videos that could not be read or have no place in the folder, with reasons; the new list leaves
            them out.
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
                f"list: {printable(self.list_file)}",
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
    continues an interrupted one. Each line of the new list keeps the format and the further fields of the old line.

    A video is bad where `check_data` with the reader "av" finds it bad, where any of its frames is damaged, where its
    path would lead out of `output`, and where an earlier video of the list has the same path.

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
        ValueError: as `read_lines`; also if a number is out of range, `output` holds the originals or is in use by
            another call, or an entry is a folder of frames.
        ImportError: PyAV is missing.
        OSError: `output` cannot be written, as on a full disk. The videos that are complete stay, and the same call
            continues.
        UnreadableVideosError: all videos are bad; no list is written.
    """
    if short_side < 2 or gop < 1:
        raise ValueError(f"short_side must be at least 2 and gop at least 1, got {short_side} and {gop}")
    output = Path(output)
    list_file = output / LIST_NAME
    folder, lines = read_lines(data, root, list_format)
    if output.resolve() == folder.resolve() or list_file.resolve() == Path(data).resolve():
        raise ValueError(f"output {output} holds the originals: name another folder")
    targets, jobs, bad_videos = _plan(output, lines, Annotations([entry for _, entry in lines], folder))
    failed: set[Path] = set()
    encode = partial(_encode_job, short_side=short_side, gop=gop)
    with lock_output(writable_folder(output)):
        present = sum(os.path.isfile(target) for target in jobs)
        for done, (target, bad_video) in enumerate(_encoded(encode, jobs, workers), 1):
            if bad_video is not None:
                failed.add(target)
                bad_videos.append(bad_video)
            if progress is not None:
                progress(done, len(jobs))
        good = {target: entry for target, entry in jobs.items() if target not in failed}
        if not good:
            listed = "".join(f"\n  {printable(bad.path)}: {bad.reason}" for bad in bad_videos)
            raise UnreadableVideosError(f"none of {len(bad_videos)} videos could be encoded again:{listed}")
        placed = [(target, rest) for target, (rest, _) in zip(targets, lines, strict=True) if target is not None]
        kept = [(str(target.relative_to(output)), rest) for target, rest in placed if target in good]
        with atomic_write(list_file) as unfinished:
            text = "".join(f"{format_line(path, rest)}\n" for path, rest in kept)
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
    existing = [(target, entry) for target, entry in good.items() if os.path.exists(entry.path)]
    measured = existing[:: max(1, len(existing) // _MEASURED)]
    return Transcoding(
        len(good) - present,
        present,
        bad_videos,
        sum(_size(entry) for _, entry in existing),
        sum(os.path.getsize(target) for target, _ in existing),
        _clips_per_second([entry for _, entry in measured], workers),
        _clips_per_second([VideoFile(str(target)) for target, _ in measured], workers),
        list_file,
    )


def _plan(
    output: Path, lines: Sequence[tuple[str, VideoEntry]], entries: Annotations
) -> tuple[list[Path | None], dict[Path, _Encodable], list[BadVideo]]:
    """The new file of each line, the video to encode for each new file, and the videos that have no place."""
    targets: list[Path | None] = []
    jobs: dict[Path, _Encodable] = {}
    bad_videos: dict[BadVideo, None] = {}  # a list may name a video twice, with different labels
    for (_, listed), labelled in zip(lines, entries, strict=True):
        if isinstance(labelled, FrameFolder):
            raise ValueError(f"{printable(labelled.path)} is a folder of frames: only videos can be encoded again")
        entry = labelled._replace(label=None)
        try:
            target = _new_path(output, listed)
            if jobs.setdefault(target, entry) != entry:
                raise ValueError(f"it would be written to {target}, as {jobs[target].name} is")
        except ValueError as error:
            targets.append(None)
            bad_videos[BadVideo(entry.name, printable(error))] = None
        else:
            targets.append(target)
    return targets, jobs, list(bad_videos)


def _new_path(output: Path, entry: VideoEntry) -> Path:
    """Path of the new video; ValueError if it would not be below the output folder."""
    path = path_inside(output, entry.path, *([entry.member] if isinstance(entry, TarMember) else []))
    return path if path.suffix == ".mp4" else path_inside(output, f"{path.relative_to(output)}.mp4")


def _encoded(encode: Callable[[_Job], _Encoded], jobs: dict[Path, _Encodable], workers: int) -> Iterator[_Encoded]:
    """Encode the videos; an error of the disk says that the work may go on later."""
    try:
        yield from parallel_map(encode, jobs.items(), workers, _job_died)
    except OSError as error:
        where = f" ({printable(error.filename)})" if error.filename else ""
        message = f"{error.strerror}{where}; complete videos stay, and the same call continues"
        raise OSError(error.errno, message) from error


def _size(entry: _Encodable) -> int:
    return entry.size if isinstance(entry, TarMember) else os.path.getsize(entry.path)


def _encode_job(job: _Job, short_side: int, gop: int) -> _Encoded:
    target, entry = job
    try:
        if not os.path.isfile(target):
            encode_video(entry, target, short_side, gop)
    except VideoError as error:
        return target, BadVideo(error.path, error.reason)
    return target, None


def _job_died(job: _Job, reason: str) -> _Encoded:
    target, entry = job
    partial_path(target).unlink(missing_ok=True)  # the process that wrote it can no longer remove it
    return target, BadVideo(unreadable(entry, reason).path, reason)


def _clips_per_second(entries: Sequence[VideoEntry], workers: int) -> float:
    """Measure one video at a time; in another process unless `workers` is 0, because a decoder may crash."""
    return DataCheck(list(parallel_map(check_video, entries, min(workers, 1), unreadable))).clips_per_second
