"""Clips with captions for training: part of a video or an image, one of its captions, and crops as everywhere."""

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from ..batch import ClipBatch
from ..dataset import ClipDataset
from ..readers import VideoError, VideoReader, open_captioned
from ..sampling import SAMPLINGS, Sampling, timed_frames
from ..seeding import caption_rng
from ..sound import SoundClip, sound_clip
from ..sources.captioned import CaptionedEntry, CaptionedVideos
from ..sources.mixture import Mixture, VideoSource
from .batch import CaptionedBatch, digest_of_caption, digest_of_video

TIMED = "fps"  # the sampling by seconds
_ROUNDING = 1e-6  # frames: what a product of seconds and frames per second may be off


class Kinds(NamedTuple):
    """The videos and the images of a mixture; None for a kind of which there are none."""

    videos: Mixture | None
    images: Mixture | None


def split_kinds(mixture: Mixture) -> Kinds:
    """Divide captioned entries into videos and images, which are batches of their own.

    Args:
        mixture: as `read_mixture(..., captioned=True)` returns it.

    Returns:
        The videos and the images, from the sources in their order, with their weights.

    Raises:
        ValueError: a source has no captions.
    """
    check_captioned(mixture)
    return Kinds(_of_kind(mixture, False), _of_kind(mixture, True))


def _of_kind(mixture: Mixture, images: bool) -> Mixture | None:
    sources = []
    for source in mixture.sources:
        assert isinstance(source.annotations, CaptionedVideos)
        part = source.annotations.of_kind(images)
        if len(part):
            sources.append(replace(source, annotations=part))
    return Mixture(sources) if sources else None


def check_captioned(mixture: Mixture) -> None:
    if not mixture.is_captioned:
        raise ValueError("annotations must have captions: read_captions and read_mixture(captioned=True) read them")


class CaptionedDataset(ClipDataset):
    """`dataset[(index, sample_number)]` is a `CaptionedBatch` of one clip of entry `index`, and one of its captions.

    It is a `ClipDataset`, with the same arguments, of one clip from each video. A clip shows the part of a video
    between the start and the end of its entry; an end after the video's end is the video's end. An image is a clip of
    one frame. Which of several captions is drawn is a function of (seed, sample_number). An entry that cannot be read,
    or whose part begins after the video's end, is replaced by another of the data set, with a caption of that one.

    Args:
        annotations: captioned entries of one kind, as `split_kinds` divides them.
        num_frames: T, the frames of a clip; 1 for images.
        fps: frames per second of the clip with the sampling "fps" (`timed_frames`), positive: a clip of 256 frames at 1
            spans a video of up to 256 seconds, and is spread over a longer one. The frames of a shorter video end
            early, and the last one is repeated and counted in `CaptionedBatch.repeated`. Seconds are counted in frames
            by the average frames per second that the file states; one that states none cannot be read so.
        sampling: "fps", or as in `ClipDataset`, within the part.
        frame_stride: as in `ClipDataset`; not used by "fps".
        with_sound: whether samples of videos have the sound of the part too (`sound_clip`). A video whose sound cannot
            be decoded is replaced; one without sound is not, and is counted in `CaptionedBatch.silent`.
        options: further arguments of `ClipDataset`, but for `crops_per_video`, which is 1.

    Attributes:
        images: whether the entries are images.

    Raises:
        ValueError: as `ClipDataset`; also if `annotations` have no captions or both kinds, `fps` is not positive, or
            images are asked for with more than one frame.
        UnreadableVideosError: from `dataset[...]`, as in `ClipDataset`.
    """

    samplings: ClassVar[Mapping[str, Sampling]] = {
        **SAMPLINGS,
        TIMED: lambda total, num_frames, frame_stride, rng: timed_frames(total, num_frames, frame_stride),
    }

    def __init__(
        self,
        annotations: CaptionedVideos | Mixture,
        *,
        num_frames: int,
        fps: float = 1.0,
        sampling: str = TIMED,
        frame_stride: int = 1,
        with_sound: bool = False,
        **options: Any,
    ) -> None:
        mixture = annotations if isinstance(annotations, Mixture) else Mixture([VideoSource(annotations)])
        check_captioned(mixture)
        flags = [source.annotations.is_image for source in mixture.sources]  # type: ignore[attr-defined]
        kinds = {bool(kind) for each in flags for kind in (each.min(), each.max())}
        if len(kinds) > 1:
            raise ValueError("annotations must be all images or all videos, got both: divide them with split_kinds")
        self.images = kinds.pop()
        if self.images and num_frames != 1:
            raise ValueError(f"num_frames must be 1 for images, got {num_frames}")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps must be positive, got {fps}")
        self.fps = float(fps)
        self.with_sound = with_sound and not self.images
        options = {"num_frames": num_frames, "sampling": sampling, "frame_stride": frame_stride, **options}
        super().__init__(mixture, crops_per_video=1, **options)

    def __getitem__(self, key: tuple[int, int]) -> CaptionedBatch:
        sample_number = key[1]
        drawn, batch = self._sample(key)
        entry = self.annotations.captioned(drawn.index)
        caption = draw_caption(entry, self.seed, sample_number)
        sound = drawn.sound
        return CaptionedBatch(
            **{field.name: getattr(batch, field.name) for field in fields(ClipBatch)},
            texts=(caption,),
            video_id=torch.tensor([digest_of_video(entry)]),
            caption_id=torch.tensor([digest_of_caption(caption)]),
            is_image=self.images,
            repeated=int(len(np.unique(drawn.frame_numbers)) < self.num_frames),
            sound=None if sound is None else sound.spectrogram[None],
            silent=int(sound is not None and sound.silent),
        )

    def decode(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        """Decode the frames of one clip, and no others.

        Args:
            index: number of the entry.
            rng: draws the frames.

        Returns:
            The numbers (T,) int64 of the frames in the whole video, and their pixels uint8 (T, height, width, 3).

        Raises:
            VideoError: the entry cannot be read, or its part has no frames.
        """
        source, entry, limit = self.annotations.source(index), self.annotations.captioned(index), self.max_decoded_bytes
        with closing(open_captioned(entry, self.reader, self.short_side, source.template, limit)) as video:
            first, count = part_of(entry, video)
            stride: Any = source.frame_stride or self.frame_stride
            if self.sampling == TIMED and not self.images:
                stride = stated_fps(entry, video) / self.fps
            numbers = first + self.samplings[self.sampling](count, self.num_frames, stride, rng)
            return numbers, torch.from_numpy(video.frames(numbers))

    def sound(self, index: int, sample_number: int) -> SoundClip | None:
        """Read the sound of a sample.

        Args:
            index: number of the entry.
            sample_number: number of the sample.

        Returns:
            The sound; None without `with_sound`.

        Raises:
            VideoError: the sound cannot be decoded.
        """
        return sound_clip(self.annotations.captioned(index), self.seed, sample_number) if self.with_sound else None


def draw_caption(entry: CaptionedEntry, seed: int, sample_number: int) -> str:
    """Draw one of the captions of an entry.

    Args:
        entry: the entry.
        seed: in [0, 2**64).
        sample_number: in [0, 2**64).

    Returns:
        A caption, a function of the arguments.
    """
    count = len(entry.captions)
    return entry.captions[int(caption_rng(seed, sample_number).integers(count)) if count > 1 else 0]


def part_of(entry: CaptionedEntry, video: VideoReader) -> tuple[int, int]:
    """The frames of a video between the start and the end of an entry.

    Args:
        entry: the entry.
        video: its video, open.

    Returns:
        The first frame, and the number of frames, at least 1. A frame that is shown at least in part counts.

    Raises:
        VideoError: the part begins after the end of the video, or the file does not state its frames per second.
    """
    if entry.start == 0 and entry.end == math.inf:
        return 0, video.num_frames
    fps = stated_fps(entry, video)
    first = math.floor(entry.start * fps + _ROUNDING)
    if first >= video.num_frames:
        seconds = video.num_frames / fps
        raise VideoError(entry.name, f"has {seconds:.3f} s, and its clip starts at {entry.start:g} s")
    last = min(entry.end * fps, video.num_frames)
    return first, max(1, math.ceil(last - _ROUNDING) - first)


def stated_fps(entry: CaptionedEntry, video: VideoReader) -> float:
    """The frames per second of a video.

    Args:
        entry: the entry.
        video: its video, open.

    Returns:
        A positive number.

    Raises:
        VideoError: the file does not state it.
    """
    if not 0 < video.fps < math.inf:
        raise VideoError(entry.name, "does not state its frames per second, by which seconds are counted")
    return video.fps
