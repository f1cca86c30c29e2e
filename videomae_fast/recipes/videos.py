"""The videos of recipes: training batches that count unreadable videos, and evaluation batches."""

from collections.abc import Callable, Generator, Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from videomae_kernels import crop_clips

from .._text import printable
from ..data import BadVideoLog, ClipBatch, ClipDataset, UnreadableVideosError, collate, make_loader
from ..data.loader import leave_process_group, load
from ..engine.log import say
from .options import ClipOptions

CHEAPER_VIDEOS = (
    "Make the videos cheaper to decode (videomae-fast transcode, or --short-side), or cut more crops from each "
    "(--crops-per-video)"
)


class TrainingVideos:
    """The training batches of one rank, and the report of unreadable videos."""

    def __init__(self, dataset: ClipDataset, options: ClipOptions, output: Path) -> None:
        """Prepare the batches.

        Args:
            dataset: the training clips.
            options: this reads `workers` and `max_bad_share`.
            output: folder of the run. The report is `bad_videos.tsv` in it; a continued run appends to the report.
        """
        self.dataset, self.options, self.output = dataset, options, output
        self.bad_videos = BadVideoLog()

    def order(self, samples_per_step: int) -> dict[str, object]:
        """All that the order of videos depends on: their number, the videos of a step, and the list."""
        fingerprint = self.dataset.annotations.fingerprint()
        return {"videos": len(self.dataset), "videos_per_step": samples_per_step, "fingerprint": fingerprint}

    def batches(
        self, batch_size: int, rank: int, world_size: int, start_step: int, num_steps: int
    ) -> Generator[Any, None, None]:
        """The batches of a rank, from a step on.

        Args:
            batch_size: videos of a step on this rank.
            rank: number of this process, in [0, world_size).
            world_size: number of training processes.
            start_step: finished steps; the first batch is for the next one.
            num_steps: number of batches.

        Returns:
            A generator; closing it ends the workers. It raises UnreadableVideosError if too many videos are bad.

        Raises:
            ValueError: the videos do not fill one step.
        """
        place = {"rank": rank, "world_size": world_size}
        loader = self._loader(
            batch_size, **place, workers=self.options.workers, start_step=start_step, num_steps=num_steps
        )
        report = self.output / (f"bad_videos_rank{rank}.tsv" if rank else "bad_videos.tsv")
        if start_step == 0:
            report.unlink(missing_ok=True)  # left by an earlier run that made no checkpoint
        self.bad_videos = BadVideoLog(report)
        return self._watched(loader, batch_size, start_step)

    def batch(self, batch_size: int, rank: int, world_size: int, step: int) -> ClipBatch:
        """The batch of a step again, made in this process.

        Args:
            batch_size: as in `batches`.
            rank: as in `batches`.
            world_size: as in `batches`.
            step: number of the step, counted from 1.

        Returns:
            The batch that `batches` yielded for the step.
        """
        return next(iter(self._loader(batch_size, rank=rank, world_size=world_size, start_step=step - 1, num_steps=1)))

    def _loader(self, batch_size: int, **place: Any) -> DataLoader[Any]:
        """The batches from a step on, as `make_loader` takes the arguments."""
        return make_loader(self.dataset, batch_size, **place)

    @property
    def _num_videos(self) -> int:
        return len(self.dataset.annotations)

    def _watched(self, loader: DataLoader[Any], batch_size: int, start_step: int) -> Generator[Any, None, None]:
        batches = load(loader, defers=True)
        try:
            for step, batch in enumerate(batches, start_step + 1):
                for bad in self.bad_videos.add(batch.bad_videos):
                    say(f"unreadable video replaced: {printable(bad.path)}: {bad.reason}")
                self.bad_videos.check_share(self.options.max_bad_share, step * batch_size, self._num_videos)
                yield batch
        except UnreadableVideosError as error:  # a worker's error arrives with its traceback as text
            raise UnreadableVideosError(str(error).rsplit("UnreadableVideosError: ", 1)[-1]) from None
        finally:
            batches.close()

    def report(self) -> list[str]:
        """A line about the replaced videos; no line if there were none."""
        bad = self.bad_videos
        return [f"{len(bad)} unreadable videos, replaced {bad.replaced} times: {bad.path}"] if len(bad) else []


class EvaluationVideos:
    """One clip of every video in a list, divided among ranks."""

    def __init__(self, dataset: ClipDataset, batch_size: int, workers: int) -> None:
        """Prepare the batches.

        Args:
            dataset: the evaluation clips, without replacements. An unreadable video is left out, and reported once.
            batch_size: clips of a batch.
            workers: data-loading processes; 0 loads in this process.
        """
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.said: set[str] = set()

    def batches(self, rank: int, world_size: int) -> Iterator[tuple[ClipBatch, bool]]:
        """The batches of a rank, and whether they count.

        A batch without a readable video is a black clip that does not count. So all ranks have the same number of
        batches, which a sharded model needs because its ranks communicate in forward.

        Args:
            rank: number of this process; it has the videos rank, rank + world_size, and so on.
            world_size: number of processes.

        Yields:
            A batch of up to `batch_size` clips, whose sample numbers are the numbers of the videos, and whether it
            counts.
        """
        own = range(rank, len(self.dataset.annotations), world_size)
        num_batches = ceil(ceil(len(self.dataset.annotations) / world_size) / self.batch_size)
        loader = DataLoader(
            _ReadableClips(self.dataset, self._join),
            batch_size=None,
            sampler=[own[first * self.batch_size :][: self.batch_size] for first in range(num_batches)],
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_process_group,
            generator=torch.Generator(),  # leaves the generator that training draws from alone
        )
        for batch, bad_videos in load(loader):
            for line in bad_videos:
                if line not in self.said:
                    say(f"unreadable video left out of the evaluation: {line}")
                self.said.add(line)
            yield self._black_clip() if batch is None else batch, batch is not None

    def _join(self, batches: Sequence[Any]) -> ClipBatch:
        """One batch of the clips of several videos."""
        return collate(batches)

    def _black_clip(self) -> ClipBatch:
        height, width = self.dataset.size
        frames = torch.zeros(self.dataset.num_frames, height, width, 3, dtype=torch.uint8)
        clips = crop_clips([frames], [0], [(0, 0, height, width)], [False], (height, width), self.dataset.resize)
        return ClipBatch(clips, torch.zeros(1, dtype=torch.int64))


class _ReadableClips(Dataset[tuple[ClipBatch | None, list[str]]]):
    """`dataset[videos]`: a batch of the readable videos, or None, and a line about each unreadable video."""

    def __init__(self, dataset: ClipDataset, join: Callable[[Sequence[Any]], ClipBatch]) -> None:
        self.dataset, self.join = dataset, join

    def __getitem__(self, videos: range) -> tuple[ClipBatch | None, list[str]]:
        batches, bad_videos = [], []
        for video in videos:
            try:
                batches.append(self.dataset[video, video])
            except UnreadableVideosError as error:
                bad_videos.append(str(error).rpartition("\n  ")[2])
        return self.join(batches) if batches else None, bad_videos


def _as_it_is(item: object) -> object:
    return item
