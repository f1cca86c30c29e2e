"""A batch of clips with captions, and which of its pairs are positives of each other."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch

from ..batch import ClipBatch, collate
from ..sources.captioned import CaptionedEntry


class CaptionTokens(NamedTuple):
    """The tokens of B captions, by the names that text models of transformers take.

    Attributes:
        input_ids: (B, L) int64, padded.
        attention_mask: (B, L) bool, False where padded.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    def pin_memory(self) -> "CaptionTokens":
        """Copy the tensors to page-locked memory.

        Returns:
            The same tokens.
        """
        return CaptionTokens(self.input_ids.pin_memory(), self.attention_mask.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CaptionTokens":
        """Move the tensors to a device.

        Args:
            device: the device.
            non_blocking: do not wait for the copies; they are asynchronous only from page-locked memory.

        Returns:
            The same tokens on `device`.
        """
        return CaptionTokens(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))


@dataclass(frozen=True, eq=False, kw_only=True)
class CaptionedBatch(ClipBatch):
    """B clips of one kind, images or videos, each with one caption.

    Attributes:
        clips, sample, label, crops_per_video, bad_videos, seconds, matrix: as in `ClipBatch`; one crop of each video.
        texts: the B captions.
        captions: their tokens; None if no tokenizer was given, as where features of texts are kept.
        video_id: (B,) int64 on the host, equal for one part of one video: a digest of its name, start and end.
        caption_id: (B,) int64 on the host, equal for equal captions: a digest.
        is_image: whether the clips are images, of one frame each.
        cut: captions that were longer than the tokenizer allows.
        repeated: clips that show a frame more than once, because the video is too short for the clip.
        sound: (B, 998, 64) float32 spectrograms, as `sound_clip` makes them; None for images, and without sound.
        silent: clips whose part of the video has no sound, and zeros in its place.
    """

    texts: tuple[str, ...]
    captions: CaptionTokens | None = None
    video_id: torch.Tensor
    caption_id: torch.Tensor
    is_image: bool
    cut: int = 0
    repeated: int = 0
    sound: torch.Tensor | None = None
    silent: int = 0

    @property
    def ids(self) -> torch.Tensor:
        """(B,) int64 on the host: `positive_ids` of this batch alone."""
        return positive_ids(self.video_id, self.caption_id)

    def pin_memory(self) -> "CaptionedBatch":
        """Copy the tensors that a step takes to the device to page-locked memory.

        Returns:
            The same batch. DataLoader calls this when it pins memory.
        """
        pinned = super().pin_memory()
        assert isinstance(pinned, CaptionedBatch)
        return pinned._with(*(None if each is None else each.pin_memory() for each in (self.captions, self.sound)))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CaptionedBatch":
        """Move clips, sample numbers, tokens and sound to a device. `video_id` and `caption_id` stay on the host.

        Args:
            device: the device.
            non_blocking: do not wait for the copies; they are asynchronous only from page-locked memory.

        Returns:
            The same batch on `device`.
        """
        moved = super().to(device, non_blocking)
        assert isinstance(moved, CaptionedBatch)
        given = (self.captions, self.sound)
        return moved._with(*(None if each is None else each.to(device, non_blocking=non_blocking) for each in given))

    def _with(self, captions: Any, sound: Any) -> "CaptionedBatch":
        return replace(self, captions=captions, sound=sound)

    def _part(self, part: slice, num_parts: int) -> "CaptionedBatch":
        made = super()._part(part, num_parts)
        assert isinstance(made, CaptionedBatch)
        return replace(
            made,
            texts=self.texts[part],
            captions=None if self.captions is None else CaptionTokens(*(tensor[part] for tensor in self.captions)),
            video_id=self.video_id[part],
            caption_id=self.caption_id[part],
            cut=0 if part.start else self.cut,
            repeated=0 if part.start else self.repeated,
            sound=None if self.sound is None else self.sound[part],
            silent=0 if part.start else self.silent,
        )


def collate_captioned(
    batches: Sequence[CaptionedBatch],
    tokenizer: Callable[[Sequence[str]], tuple[CaptionTokens, torch.Tensor]] | None = None,
) -> CaptionedBatch:
    """Join batches into one, and make its tokens.

    Args:
        batches: at least one; clips of one kind, as `collate` joins them.
        tokenizer: a `CaptionTokenizer`; None: no tokens.

    Returns:
        One batch with the clips in order, and the sums of the counts.

    Raises:
        ValueError: as `collate`; also if some are images and others videos, or some have sound and others have not.
    """
    if len({batch.is_image for batch in batches}) > 1:
        raise ValueError("a batch must be all images or all videos, got both")
    sounds = [batch.sound for batch in batches if batch.sound is not None]
    if len(sounds) not in (0, len(batches)):
        raise ValueError(f"all clips of a batch must have sound, or none, got {len(sounds)} of {len(batches)}")
    joined = collate(batches)
    texts = tuple(text for batch in batches for text in batch.texts)
    captions, cut = (None, torch.zeros(1)) if tokenizer is None else tokenizer(texts)
    return CaptionedBatch(
        **{field.name: getattr(joined, field.name) for field in fields(ClipBatch)},
        texts=texts,
        captions=captions,
        video_id=torch.cat([batch.video_id for batch in batches]),
        caption_id=torch.cat([batch.caption_id for batch in batches]),
        is_image=batches[0].is_image,
        cut=int(cut.sum()),
        repeated=sum(batch.repeated for batch in batches),
        sound=torch.cat(sounds) if sounds else None,
        silent=sum(batch.silent for batch in batches),
    )


def positive_ids(video_id: torch.Tensor, caption_id: torch.Tensor) -> torch.Tensor:
    """Number the pairs of a batch so that positives have equal numbers: those with one video or one caption.

    It is transitive: a pair that shares its video with a second one, and that its caption with a third, has one number
    with both. The numbers are those of this batch. Where a loss is over the pairs of several ranks, join their two ids
    first, in the order of the ranks: every rank then makes the same numbers.

    Args:
        video_id: (n,) int64, `CaptionedBatch.video_id`.
        caption_id: (n,) int64, `CaptionedBatch.caption_id`.

    Returns:
        (n,) int64 in [0, n): of each pair, the place of the first one with its number.

    Raises:
        ValueError: the two differ in length.
    """
    if video_id.ndim != 1 or video_id.shape != caption_id.shape:
        raise ValueError(
            f"video_id and caption_id must be two lists of one length, got {tuple(video_id.shape)} and "
            f"{tuple(caption_id.shape)}"
        )
    n = len(video_id)
    groups = [torch.unique(given, return_inverse=True)[1] for given in (video_id, caption_id)]
    ids = torch.arange(n, device=video_id.device)
    while True:
        found = ids
        for group in groups:
            found = torch.full_like(ids, n).scatter_reduce(0, group, found, "amin")[group]
        if torch.equal(found, ids):
            return ids
        ids = found


def digest_of_video(entry: CaptionedEntry) -> int:
    """The number of a part of a video in `CaptionedBatch.video_id`.

    Args:
        entry: the video.

    Returns:
        A digest of its name, start and end.
    """
    return _digest(f"{entry.name}\0{entry.start!r}\0{entry.end!r}")


def digest_of_caption(caption: str) -> int:
    """The number of a caption in `CaptionedBatch.caption_id`.

    Args:
        caption: the text.

    Returns:
        A digest of it.
    """
    return _digest(caption)


def _digest(text: str) -> int:
    data = text.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class CaptionCounts:
    """Counts over a run: captions that were cut, clips that repeat a frame, and clips without sound.

    Attributes:
        clips: clips and captions so far.
        cut: captions that were cut.
        repeated: clips that repeat a frame.
        silent: clips that have zeros in the place of sound, of `heard`.
        heard: clips that were asked for with sound.
    """

    def __init__(self) -> None:
        self.clips = self.cut = self.repeated = self.silent = self.heard = 0

    def add(self, batch: CaptionedBatch) -> None:
        """Count a batch.

        Args:
            batch: as the loader makes it.
        """
        self.clips += len(batch.texts)
        self.cut += batch.cut
        self.repeated += batch.repeated
        self.silent += batch.silent
        self.heard += 0 if batch.sound is None else len(batch.sound)

    def report(self) -> list[str]:
        """Say what was counted, for the end of a run.

        Returns:
            Up to three lines; none about a count of 0.
        """
        lines = [f"{self.cut} of {self.clips} texts were cut to the most tokens allowed"] if self.cut else []
        if self.repeated:
            lines.append(f"{self.repeated} of {self.clips} clips repeat a frame: their videos are too short")
        if self.silent:
            lines.append(f"{self.silent} of {self.heard} clips have no sound: zeros were in its place")
        return lines
