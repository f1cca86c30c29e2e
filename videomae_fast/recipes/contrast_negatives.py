"""Negatives: runs that can never have any are refused, and steps that happen to have none are counted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._text import printable
from ..data import Mixture
from ..data.captioned.batch import digest_of_video
from ..data.sources.captioned import CaptionedVideos
from .contrast_config import ContrastConfig
from .contrast_part import Part
from .ranks import gather_rows


def check_sizes(config: ContrastConfig, world_size: int) -> None:
    """Refuse batches, and with fusion micro-batches, of one pair.

    Args:
        config: of the run.
        world_size: number of processes.

    Raises:
        ValueError: a pair alone would be compared.
    """
    optimizer, fusion = config.optimizer, config.fusion
    if optimizer.batch_size * world_size < 2:
        raise ValueError("batch_size must be at least 2 on one device: a single pair has nothing to differ from")
    compared = optimizer.part_size * (world_size if fusion.negatives == "global" else 1)
    if fusion.fusion_layers and compared < 2:
        name = "micro_batch" if optimizer.micro_batch else "batch_size"
        raise ValueError(
            f"{name} must be at least 2 with fusion_layers {fusion.fusion_layers}, whose hard negatives are drawn "
            f"among the pairs that the towers run on at a time, got {optimizer.part_size}"
        )


def check_lists(kinds: Sequence[Mixture | None], source: str) -> None:
    """Refuse lists none of whose pairs can be a negative of another.

    Args:
        kinds: the videos and the images, each of which has batches of its own.
        source: names them in the error.

    Raises:
        ValueError: a kind has one video, or one caption, only.
    """
    for kind, mixture in zip(("videos", "images"), kinds, strict=True):
        if mixture is not None:
            _check_list(mixture, kind, source)


def _check_list(mixture: Mixture, kind: str, source: str) -> None:
    entries, captions = set[int](), set[str]()
    for each in mixture.sources:
        assert isinstance(each.annotations, CaptionedVideos)
        for number in range(len(each.annotations)):
            entry = each.annotations.captioned(number)
            entries.add(digest_of_video(entry))
            captions.update(entry.captions)
            if len(entries) > 1 and len(captions) > 1:
                return
    what = "caption" if len(captions) == 1 else kind[:-1]
    raise ValueError(
        f"all {kind} of data {printable(source)} have one {what}, so that no pair is a negative of another: at least "
        "two must differ"
    )


def pairs_differ(ids: Tensor) -> bool:
    """Whether some pairs are negatives of each other.

    Args:
        ids: (n,) int64 on the host, where reading them is no host sync; equal for positives.

    Returns:
        Whether not all are equal.
    """
    return bool((ids != ids[0]).any())


class NegativeCounts:
    """Counts over a run: steps whose pairs all share a video or a caption, and parts without a hard negative.

    Both are trained on. The contrastive loss then makes all pairs alike, and the loss of matching is 0.
    """

    def __init__(self) -> None:
        self.steps = self.parts = self.unmatched = 0
        self._alike: Tensor | int = 0  # on the device, so that nothing waits for it

    def add(self, parts: Sequence[Part], group: Any, fuses: bool) -> None:
        """Count the parts of a batch.

        Args:
            parts: all of this process.
            group: processes whose pairs are compared; None: this one's only.
            fuses: whether there is a loss of matching.
        """
        ids = torch.cat([torch.stack([part.video_id, part.caption_id], dim=1) for part in parts])
        ids = gather_rows(ids, group)
        self._alike = self._alike + (ids == ids[:1]).all(0).any()
        self.steps += 1
        if fuses:
            self.parts += len(parts)
            self.unmatched += sum(part.pair_ids is None for part in parts)

    def report(self) -> list[str]:
        """Say what was counted, for the end of a run.

        Returns:
            Up to two lines; none about a count of 0.
        """
        alike = int(self._alike)
        lines = [f"{alike} of {self.steps} steps compared pairs of one video or one caption only"] if alike else []
        if self.unmatched:
            lines.append(
                f"{self.unmatched} of {self.parts} micro-batches had no hard negative: their loss of matching was 0"
            )
        return lines
