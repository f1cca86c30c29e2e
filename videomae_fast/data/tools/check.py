"""Check the videos of a list before a run, in parallel: find bad videos, list codecs and sizes, measure decoding."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..._files import atomic_write
from ..._text import printable, write_table
from ..readers import DEFAULT_READER, IMAGE_TEMPLATE, AvVideo, VideoError, check_reader, open_entry
from ..sampling import frame_indices
from ..seeding import sample_rng
from ..sources.annotations import FrameFolder, TarMember, VideoEntry
from ..sources.lines import format_line
from ..sources.lists import read_lines
from ..sources.mixture import read_mixture
from .process_pool import parallel_map


@dataclass(frozen=True)
class VideoCheck:
    """The check of one video. If it cannot be opened, all but `path` and `reason` is 0 or empty.

    Attributes:
        path: the video's path; for a member of a tar file, the tar file's path and the member's name.
        reason: why it cannot be read, in one line; empty if it can.
        codec: FFmpeg's name of the codec; "images" for a folder of frames.
        width: pixels, with rotation applied.
        height: pixels, with rotation applied.
        frames: frames that a player shows.
        seconds: playing time; 0 if the file does not state it.
        decode_seconds: processor time to open the video and decode one clip.
    """

    path: str
    reason: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class DataCheck:
    """The check of all videos of a list, in its order."""

    videos: list[VideoCheck]

    @property
    def bad(self) -> list[VideoCheck]:
        """The videos that cannot be read."""
        return [video for video in self.videos if video.reason]

    @property
    def clips_per_second(self) -> float:
        """Clips that one core opens and decodes in a second, one from each readable video."""
        good = [video.decode_seconds for video in self.videos if not video.reason]
        return len(good) / max(sum(good), 1e-9)

    def summary(self) -> str:
        """Summarise the check for the console.

        Returns:
            A few lines, and one line for each bad video.
        """
        good = [video for video in self.videos if not video.reason]
        lines = [f"{len(self.videos)} videos, {len(self.bad)} bad"]
        lines += [f"  bad: {printable(video.path)}: {video.reason}" for video in self.bad]
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
        """Write a table as `write_table` does: one row per video, under a row of the fields' names.

        Args:
            path: the file to make or replace.
        """
        names = [field.name for field in fields(VideoCheck)]
        write_table(Path(path), [names, *(list(asdict(video).values()) for video in self.videos)])


def check_data(
    data: str | os.PathLike,
    root: str | os.PathLike | None = None,
    list_format: str = "auto",
    *,
    reader: str = DEFAULT_READER,
    num_frames: int = 16,
    frame_stride: int = 4,
    workers: int = 0,
    clean: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Open every video, decode one clip from a random place and the last frame.

    Args:
        data: anything that `read_mixture` reads.
        root: as in `read_mixture`.
        list_format: as in `read_mixture`.
        reader: a key of READERS: "av", "decord" or "torchcodec".
        num_frames: frames of the clip.
        frame_stride: frames from one frame of the clip to the next, unless the mixture says otherwise.
        workers: processes. A process that a video crashes is replaced, and the video is reported as bad. 0 reads in
            this process, which a crash ends.
        clean: file for the list without its bad lines; it must not exist, and `data` must not be a mixture. Lines keep
            their format, their order, their labels and further fields; lines of tar files come last. Paths stay
            relative if the file is in the folder that they are relative to; elsewhere they become absolute. A path that
            needs it is written in quotes. A line that names a tar file is kept unless all its videos are bad.
        progress: called after each video with the number of videos done and of all videos.

    Returns:
        The checks of all videos.

    Raises:
        FileNotFoundError: as `read_mixture`.
        ValueError: as `read_mixture`, and with `clean` as `read_lines`; also if a number is out of range, or the
            reader is unknown.
        ImportError: the reader's package is missing.
        FileExistsError: `clean` exists.
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
    """Check one video as `check_data` does.

    Args:
        entry: the video.
        reader: a key of READERS.
        template: names of the images in a folder of frames.
        num_frames: frames of the clip.
        frame_stride: frames from one frame of the clip to the next.

    Returns:
        The check. A video that cannot be read has a `reason`; nothing is raised for it.
    """
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
    return VideoCheck(entry.name, "", codec, width, height, frames, seconds, spent)


def unreadable(entry: VideoEntry, reason: str) -> VideoCheck:
    """The check of a video that cannot be read.

    Args:
        entry: the video.
        reason: why it cannot be read, in one line.

    Returns:
        A check with `path` and `reason` only.
    """
    return VideoCheck(entry.name, reason)


def _check_task(task: tuple[VideoEntry, str, str, int, int]) -> VideoCheck:
    return check_video(*task)


def _codec_and_seconds(entry: VideoEntry) -> tuple[str, float]:
    if isinstance(entry, FrameFolder):
        return "images", 0.0
    video = open_entry(entry, "av")
    assert isinstance(video, AvVideo)
    with closing(video):
        return video.codec, video.seconds


class _CleanList:
    """The file for the good lines of a list; it is checked before the work begins."""

    def __init__(self, path: Path, data: str | os.PathLike, root: str | os.PathLike | None, list_format: str) -> None:
        self.path = path
        self._check_absent()
        folder, self.lines = read_lines(data, root, list_format)
        self.prefix = "" if path.parent.resolve() == folder.resolve() else str(folder.resolve())

    def write(self, videos: list[VideoCheck]) -> None:
        good = [pair for pair, video in zip(self.lines, videos, strict=True) if not video.reason]
        files = [(entry.path, rest) for rest, entry in good if not isinstance(entry, TarMember)]
        shards = dict.fromkeys((entry.path, rest) for rest, entry in good if isinstance(entry, TarMember))
        self._check_absent()  # the check may have taken hours
        with atomic_write(self.path) as partial:
            lines = (format_line(os.path.join(self.prefix, path), rest) for path, rest in (*files, *shards))
            text = "".join(f"{line}\n" for line in lines)
            partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")

    def _check_absent(self) -> None:
        if self.path.exists():
            raise FileExistsError(f"clean: {printable(self.path)} exists and is not overwritten")
