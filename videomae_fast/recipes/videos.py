"""What recipes share about their videos: batches that count what cannot be read, and clips to evaluate on."""

from collections.abc import Generator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ..data import BadVideoLog, ClipBatch, ClipDataset, UnreadableVideosError, make_loader
from ..engine.log import say
from .options import DataOptions


class TrainingVideos:
    """The batches of one rank, and the report of the videos that could not be read."""

    def __init__(self, dataset: ClipDataset, options: DataOptions, output: Path) -> None:
        """Write the report, `bad_videos.tsv`, below `output`; a run that continues goes on with it."""
        self.dataset, self.options, self.output = dataset, options, output
        self.bad_videos = BadVideoLog()

    def order(self, samples_per_step: int) -> dict[str, object]:
        """What the order of videos depends on: their number, the batch, and the list."""
        fingerprint = self.dataset.annotations.fingerprint()
        return {"videos": len(self.dataset), "videos_per_step": samples_per_step, "fingerprint": fingerprint}

    def batches(
        self, batch_size: int, rank: int, world_size: int, start_step: int, num_steps: int
    ) -> Generator[ClipBatch, None, None]:
        """The batches of a rank from a step on.

        Args:
            batch_size: videos of a step on this rank.
            rank, world_size: see `StepSampler`.
            start_step, num_steps: finished steps, and steps to come.

        Returns:
            A generator; closing it ends the workers. It raises UnreadableVideosError when too many videos are bad.

        Raises:
            ValueError: the videos do not fill one step.
        """
        loader = make_loader(
            self.dataset,
            batch_size,
            rank=rank,
            world_size=world_size,
            workers=self.options.workers,
            start_step=start_step,
            num_steps=num_steps,
        )
        report = self.output / (f"bad_videos_rank{rank}.tsv" if rank else "bad_videos.tsv")
        if start_step == 0:
            report.unlink(missing_ok=True)  # of an earlier run that never came to a checkpoint
        self.bad_videos = BadVideoLog(report)
        return self._watched(loader, batch_size, start_step)

    def _watched(
        self, loader: DataLoader[ClipBatch], batch_size: int, start_step: int
    ) -> Generator[ClipBatch, None, None]:
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed: a continued run has one draw more
            batches = iter(loader)
        try:
            for step, batch in enumerate(batches, start_step + 1):
                for bad in self.bad_videos.add(batch.bad_videos):
                    say(f"unreadable video replaced: {bad.path}: {bad.reason}")
                videos = len(self.dataset.annotations)
                self.bad_videos.check_share(self.options.max_bad_share, step * batch_size, videos)
                yield batch
        except UnreadableVideosError as error:  # a worker's error arrives with its traceback as text
            raise UnreadableVideosError(str(error).rsplit("UnreadableVideosError: ", 1)[-1]) from None
        finally:
            # The traceback of an error keeps the iterator alive, and nothing public ends its workers then.
            getattr(batches, "_shutdown_workers", lambda: None)()

    def report(self) -> list[str]:
        """A line about the videos that were replaced, if there were any."""
        bad = self.bad_videos
        return [f"{len(bad)} unreadable videos, replaced {bad.replaced} times: {bad.path}"] if len(bad) else []
