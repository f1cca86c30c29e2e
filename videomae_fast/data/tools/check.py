"""Read a list of videos once, in parallel, before a run does: what is bad, what is there, how fast it decodes."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..readers import DEFAULT_READER, IMAGE_TEMPLATE, AvVideo, VideoError, check_reader, open_entry
from ..sampling import frame_indices
from ..seeding import sample_rng
from ..sources.annotations import VideoEntry
from ..sources.lists import read_lines
from ..sources.mixture import read_mixture
from .process_pool import parallel_map


@dataclass(frozen=True)
class VideoCheck:
    """One video; `problem` is empty if it can be read, and all else is 0 or empty if it cannot be opened."""

    path: str
    problem: str = ""
    codec: str = ""  # "images" for a raw-frame folder
    width: int = 0  # as shown: rotation applied
    height: int = 0
    frames: int = 0
    seconds: float = 0.0  # how long it plays; 0: unknown
    decode_seconds: float = 0.0  # processor time to open it and decode one clip


@dataclass(frozen=True)
class DataCheck:
    """All videos of a list, in its order."""

    videos: list[VideoCheck]

    @property
    def bad(self) -> list[VideoCheck]:
        return [video for video in self.videos if video.problem]

    @property
    def clips_per_second(self) -> float:
        """Clips that one core opens and decodes in a second, one from each readable video."""
        good = [video.decode_seconds for video in self.videos if not video.problem]
        return len(good) / max(sum(good), 1e-9)

    def summary(self) -> str:
        """A few lines for the console; each bad video has its own."""
        good = [video for video in self.videos if not video.problem]
        lines = [f"{len(self.videos)} videos, {len(self.bad)} bad"]
        lines += [f"  bad: {video.path}: {video.problem}" for video in self.bad]
        if good:
            frames, sides = sorted(v.frames for v in good), sorted(min(v.width, v.height) for v in good)
            codecs = Counter(video.codec for video in good).most_common()
            lines += [
                "codecs: " + ", ".join(f"{codec} {count}" for codec, count in codecs),
                f"frames: {frames[0]} to {frames[-1]}, median {frames[len(frames) // 2]}; "
                f"{sum(v.seconds for v in good) / 3600:.2f} hours in all",
                f"short side: {sides[0]} to {sides[-1]} pixels, median {sides[len(sides) // 2]}",
                f"decoding: {self.clips_per_second:.1f} clips/s per core",
            ]
        return "\n".join(lines)

    def write(self, path: str | os.PathLike) -> None:
        """Write one line per video, fields separated by tabs, the names of the fields first."""
        rows = [[f.name for f in fields(VideoCheck)], *([str(v) for v in asdict(x).values()] for x in self.videos)]
        text = "".join("\t".join(row) + "\n" for row in rows)
        Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")


def check_data(
    data: str | os.PathLike,
    root: str | os.PathLike | None = None,
    list_format: str = "auto",
    *,
    reader: str = DEFAULT_READER,
    num_frames: int = 16,
    frame_stride: int = 4,
    workers: int = 0,  # processes; 0 reads in this one, which a video that crashes its decoder then ends
    clean: str | os.PathLike | None = None,  # also write the list without its bad lines to this file
    progress: Callable[[int, int], None] | None = None,  # called with the videos done and those in all
) -> DataCheck:
    """Open every video of what `read_mixture` reads, decode one clip of it from a random place and its last frame.

    `clean` keeps the rest of each line, labels included, and the order (tar files last). In the folder that paths are
    relative to it keeps paths as they are, elsewhere it makes them absolute. A line that names a tar file stays unless
    all videos in it are bad.
    A video that crashes its decoder is a bad one, if it is read in a process other than this one.
    Errors: as `read_mixture`; ValueError for an unknown reader, or a `clean` that could not be read back;
    FileExistsError if `clean` exists.
    """
    check_reader(reader)
    mixture = read_mixture(data, root, list_format)
    clean_list = None if clean is None else _CleanList(Path(clean), data, root, list_format)
    jobs = ((mixture[number], mixture.source(number)) for number in range(len(mixture)))
    tasks = (
        (entry, reader, source.template, num_frames, source.frame_stride or frame_stride) for entry, source in jobs
    )
    videos = []
    for video in parallel_map(_check_task, tasks, workers, lambda task, reason: unreadable(task[0], reason)):
        videos.append(video)
        if progress is not None:
            progress(len(videos), len(mixture))
    if clean_list is not None:
        clean_list.write(videos)
    return DataCheck(videos)


def check_video(
    entry: VideoEntry,
    reader: str = DEFAULT_READER,
    template: str = IMAGE_TEMPLATE,
    num_frames: int = 16,
    frame_stride: int = 4,
) -> VideoCheck:
    """Check one video, as `check_data` does; never raises for what the file is like."""
    start = time.process_time()
    try:
        with closing(open_entry(entry, reader, template=template)) as video:
            frames = video.num_frames
            images = video.frames(frame_indices(frames, num_frames, frame_stride, sample_rng(0, 0)))
            spent = time.process_time() - start
            video.frames(np.array([frames - 1]))
        height, width = images.shape[1:3]
        codec, seconds = _codec_and_seconds(entry)
    except VideoError as error:
        return unreadable(entry, error.reason)
    return VideoCheck(_name(entry), "", codec, width, height, frames, seconds, spent)


def unreadable(entry: VideoEntry, reason: str) -> VideoCheck:
    """What is known of a video that cannot be read."""
    return VideoCheck(_name(entry), reason)


def _name(entry: VideoEntry) -> str:
    return f"{entry.path}/{entry.member}" if entry.member else entry.path


def _check_task(task: tuple[VideoEntry, str, str, int, int]) -> VideoCheck:
    return check_video(*task)


def _codec_and_seconds(entry: VideoEntry) -> tuple[str, float]:
    if entry.total >= 0:
        return "images", 0.0
    video = open_entry(entry, "av")
    assert isinstance(video, AvVideo)
    with closing(video):
        return video.codec, video.seconds


class _CleanList:
    """Where the good lines of a list go; everything that can be wrong with it is found before the work begins."""

    def __init__(self, path: Path, data: str | os.PathLike, root: str | os.PathLike | None, list_format: str) -> None:
        if path.exists():
            raise FileExistsError(f"clean: {path} exists and is not overwritten")
        self.path = path
        folder, self.lines = read_lines(data, root, list_format)
        self.prefix = "" if path.parent.resolve() == folder.resolve() else str(folder.resolve())
        if len(self.prefix.split()) > 1:
            raise ValueError(f"clean: paths in {self.prefix!r} have spaces, so it cannot name them: write it there")

    def write(self, videos: list[VideoCheck]) -> None:
        good = [pair for pair, video in zip(self.lines, videos, strict=True) if not video.problem]
        files = [line for line, entry in good if not entry.member]
        shards = dict.fromkeys(line for line, entry in good if entry.member)
        with open(self.path, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{os.path.join(self.prefix, line)}\n" for line in (*files, *shards))
