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
from ..captioned.dataset import part_of
from ..readers import (
    DEFAULT_READER,
    IMAGE_TEMPLATE,
    AvVideo,
    VideoError,
    VideoReader,
    check_reader,
    open_captioned,
    open_entry,
)
from ..sampling import frame_indices
from ..seeding import sample_rng
from ..sources.annotations import FrameFolder, TarMember, VideoEntry
from ..sources.captioned import CaptionedEntry, CaptionedVideos
from ..sources.instructions import InstructedVideos
from ..sources.lines import format_line
from ..sources.lists import read_lines
from ..sources.mixture import Mixture
from ..sources.mixture_file import read_mixture
from .process_pool import parallel_map

Entry = VideoEntry | CaptionedEntry


@dataclass(frozen=True)
class VideoCheck:
    """The check of one video. If it cannot be opened, all but `path` and `reason` is 0 or empty.

    Attributes:
        path: the video's path; for a member of a tar file, the tar file's path and the member's name.
        reason: why it cannot be read, in one line; empty if it can.
        codec: FFmpeg's name of the codec; "images" for a folder of frames, "image" for an image.
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
    """The check of all videos of a list, in its order, and a line about their captions, if they have some."""

    videos: list[VideoCheck]
    captions: str = ""

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
        lines = [f"{len(self.videos)} videos, {len(self.bad)} bad", *([self.captions] if self.captions else [])]
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
    captioned: bool = False,
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
        captioned: whether `data` has captions or conversations, as in `read_mixture`. The clip is then from the part of
            the video that an entry names, and there is no `clean`.
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
        ValueError: as `read_mixture`, and with `clean` as `read_lines`; also if a number is out of range, the
            reader is unknown, or `clean` is given for captions.
        ImportError: the reader's package is missing.
        FileExistsError: `clean` exists.
    """
    check_reader(reader)
    if captioned and clean is not None:
        raise ValueError("clean is for lists without captions: no new list of captions is written")
    mixture = read_mixture(data, root, list_format, captioned=captioned, conversations=captioned)
    clean_list = None if clean is None else _CleanList(Path(clean), data, root, list_format)
    entry_of: Callable[[int], Entry] = mixture.captioned if captioned else mixture.__getitem__
    jobs = ((entry_of(number), mixture.source(number)) for number in range(len(mixture)))
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
    return DataCheck(videos, _captions_line(mixture) if captioned else "")


def _captions_line(mixture: Mixture) -> str:
    sources = [s.annotations for s in mixture.sources if isinstance(s.annotations, CaptionedVideos)]
    captions = sum(int(source.num_captions.sum()) for source in sources)
    kinds = "captions and conversations" if any(isinstance(s, InstructedVideos) for s in sources) else "captions"
    images = sum(int(source.is_image.sum()) for source in sources)
    return f"{captions} {kinds}, of {len(mixture) - images} clips of videos and {images} images"


def check_video(
    entry: Entry,
    reader: str = DEFAULT_READER,
    template: str = IMAGE_TEMPLATE,
    num_frames: int = 16,
    frame_stride: int = 4,
) -> VideoCheck:
    """Check one video as `check_data` does.

    Args:
        entry: the video, or a captioned part of one.
        reader: a key of READERS.
        template: names of the images in a folder of frames.
        num_frames: frames of the clip.
        frame_stride: frames from one frame of the clip to the next.

    Returns:
        The check. A video that cannot be read has a `reason`; nothing is raised for it.
    """
    start = time.process_time()
    try:
        with closing(_open(entry, reader, template)) as video:
            frames = video.num_frames
            first, count = part_of(entry, video) if isinstance(entry, CaptionedEntry) else (0, frames)
            images = video.frames(first + frame_indices(count, num_frames, frame_stride, sample_rng(0, 0)))
            spent = time.process_time() - start
            video.frames(np.array([frames - 1]))
        height, width = images.shape[1:3]
        codec, seconds = _codec_and_seconds(entry)
    except VideoError as error:
        return unreadable(entry, error.reason)
    return VideoCheck(entry.name, "", codec, width, height, frames, seconds, spent)


def unreadable(entry: Entry, reason: str) -> VideoCheck:
    """The check of a video that cannot be read.

    Args:
        entry: the video.
        reason: why it cannot be read, in one line.

    Returns:
        A check with `path` and `reason` only.
    """
    return VideoCheck(entry.name, reason)


def _check_task(task: tuple[Entry, str, str, int, int]) -> VideoCheck:
    return check_video(*task)


def _open(entry: Entry, reader: str, template: str) -> VideoReader:
    if isinstance(entry, CaptionedEntry):
        return open_captioned(entry, reader, template=template)
    return open_entry(entry, reader, template=template)


def _codec_and_seconds(entry: Entry) -> tuple[str, float]:
    if isinstance(entry, CaptionedEntry):
        return ("image", 0.0) if entry.is_image else _codec_and_seconds(entry.video)
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
