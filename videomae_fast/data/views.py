"""The views of a video in evaluation: segments in time, crops in space, all from frames that are decoded once."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from videomae_kernels import CroppedClips, crop_clips
from videomae_kernels.pixels.crops import GEOMETRY

from .captioned.dataset import TIMED, part_of, stated_fps
from .crops import CropBox, crop_resize
from .readers import (
    DEFAULT_READER,
    MAX_DECODED_BYTES,
    VideoError,
    VideoReader,
    check_reader,
    open_captioned,
    open_entry,
)
from .readers.frame_stack import check_decoded_bytes
from .sampling import dense_views, spread_evenly, timed_frames, uniform_frames, uniform_views
from .sources.annotations import Annotations
from .sources.captioned import CaptionedEntry
from .sources.mixture import Mixture, VideoSource
from .view_batch import MissingVideo, ViewBatch

# By the names of the option `sampling`; each is a function of (total, num_frames, frame_stride, segments).
VIEW_SAMPLINGS: dict[str, Callable[[int, int, Any, int], np.ndarray]] = {
    "dense": dense_views,
    "uniform": lambda total, num_frames, frame_stride, segments: _uniform(total, num_frames, segments),
    TIMED: lambda total, num_frames, frame_stride, segments: timed_frames(total, num_frames, frame_stride)[None],
}


def _uniform(total: int, num_frames: int, segments: int) -> np.ndarray:
    """`uniform_views`; a single clip has the middle frame of each part, as published validation has."""
    if segments == 1:
        return uniform_frames(total, num_frames, None)[None]
    return uniform_views(total, num_frames, segments)


class ViewDataset(Dataset[ViewBatch]):
    """`dataset[index]` is the `ViewBatch` of video `index`: its segments · crops views, or a `MissingVideo`.

    Of the frames of all segments each is decoded once and resized once: the shorter side to `short_side`, the longer
    side in proportion, rounded down, bilinear without antialiasing, to uint8. A crop has `size`; crop s begins at
    ⌊s · (longer side - its size) / (crops - 1)⌋ along the longer side of the frames, which is the height if both are
    equal, and is in the middle of the shorter side. One segment, or one crop, is in the middle. A video that is shorter
    than a view repeats frames as published.

    An entry with captions has views of its part of the video, or of its image, which is a video of one frame.

    Published are 5 segments ("dense") and 3 crops, and for Something-Something V2 2 ("uniform") and 3, of frames whose
    shorter side is the size of a clip.

    Args:
        annotations: the videos, as `read_annotations` or `read_mixture` returns them.
        num_frames: T, the frames of a clip.
        frame_stride: frames from one frame of a clip to the next, unless the source of the video says otherwise. Used
            by `sampling` "dense".
        size: (H, W) of the clips, in pixels.
        short_side: shorter side of the resized frames, in pixels, at least H and W.
        segments: clips along the video.
        crops: crops of each clip.
        sampling: which frames make the segments: "dense" (`dense_views`), "uniform" (`uniform_views`) or, of one
            segment, "fps" (`timed_frames`).
        fps: frames per second of the clip with the sampling "fps", positive.
        reader: a key of READERS: "av", "decord" or "torchcodec".
        max_decoded_bytes: the most bytes that the decoded frames of all segments may take, as in `open_video`; a video
            that takes more cannot be read.

    Raises:
        ValueError: an argument is out of range or unknown, or `annotations` is empty.

    References:
        VideoClsDataset and RawFrameClsDataset, test mode, in dataset/datasets.py of VideoMAE V2. They decode and resize
        the whole video for each view, and show another video where one cannot be read. They resize with OpenCV, whose
        integer arithmetic differs by up to 1 of 255.
    """

    def __init__(
        self,
        annotations: Annotations | Mixture,
        *,
        num_frames: int,
        frame_stride: int,
        size: tuple[int, int],
        short_side: int,
        segments: int,
        crops: int,
        sampling: str = "dense",
        fps: float = 1.0,
        reader: str = DEFAULT_READER,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        for name, value in (
            ("num_frames", num_frames),
            ("frame_stride", frame_stride),
            ("segments", segments),
            ("crops", crops),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), both at least 1, got {size}")
        if max(size) > short_side:
            raise ValueError(
                f"short_side must be at least the height and width {tuple(size)} of a view, got {short_side}"
            )
        if sampling not in VIEW_SAMPLINGS:
            raise ValueError(f"sampling must be one of {tuple(VIEW_SAMPLINGS)}, got {sampling!r}")
        if sampling == TIMED and segments != 1:
            raise ValueError(f"segments must be 1 with sampling {TIMED!r}, got {segments}")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps must be positive, got {fps}")
        check_reader(reader, max_decoded_bytes=max_decoded_bytes)
        self.annotations = annotations if isinstance(annotations, Mixture) else Mixture([VideoSource(annotations)])
        self.num_frames, self.frame_stride, self.size = num_frames, frame_stride, (int(size[0]), int(size[1]))
        self.short_side, self.segments, self.crops, self.sampling = short_side, segments, crops, sampling
        self.fps = fps
        self.reader, self.max_decoded_bytes = reader, max_decoded_bytes

    def __len__(self) -> int:
        """The number of videos."""
        return len(self.annotations)

    def __getitem__(self, index: int) -> ViewBatch:
        start = time.perf_counter()
        entry = self.annotations[index]
        try:
            numbers, frames = self.decode(index)
        except VideoError as error:
            missing, none = [MissingVideo(index, error.path, error.reason)], torch.empty(0, dtype=torch.int64)
            return ViewBatch(None, none, none, missing, time.perf_counter() - start)
        clips = self._cut(numbers, frames)
        label = torch.tensor([-1 if entry.label is None else entry.label])
        return ViewBatch(clips, torch.tensor([index]), label, [], time.perf_counter() - start)

    def decode(self, index: int) -> tuple[np.ndarray, torch.Tensor]:
        """Decode the frames of all segments, each once.

        Args:
            index: number of the video.

        Returns:
            For each frame of each segment its place among the decoded frames, (segments, T) int64, and the decoded
            frames in the order of the video, uint8 (n, height, width, 3).

        Raises:
            VideoError: the video cannot be read.
        """
        source, limit = self.annotations.source(index), self.max_decoded_bytes
        entry, opened = self._open(index)
        with closing(opened) as video:
            first, count = part_of(entry, video)
            stride: Any = source.frame_stride or self.frame_stride
            if self.sampling == TIMED and video.num_frames > 1:
                stride = stated_fps(entry, video) / self.fps
            numbers = first + VIEW_SAMPLINGS[self.sampling](count, self.num_frames, stride, self.segments)
            wanted, places = np.unique(numbers, return_inverse=True)
            frames = torch.from_numpy(video.frames(wanted))
        height, width = frames.shape[1:3]
        resized = resized_sides(height, width, self.short_side)
        check_decoded_bytes(entry.name, (len(frames), *resized), (height, width), limit)  # thin frames become large
        return places.reshape(numbers.shape), frames

    def _open(self, index: int) -> tuple[CaptionedEntry, VideoReader]:
        """Open a video; one without captions is the whole of it, and no image."""
        limit, template = self.max_decoded_bytes, self.annotations.source(index).template
        place: dict[str, Any] = {"template": template, "max_decoded_bytes": limit}
        if self.annotations.is_captioned:
            entry = self.annotations.captioned(index)
            return entry, open_captioned(entry, self.reader, **place)
        return CaptionedEntry(self.annotations[index], ()), open_entry(self.annotations[index], self.reader, **place)

    def _cut(self, places: np.ndarray, frames: torch.Tensor) -> CroppedClips:
        """The clips of a video. Segments of consecutive frames share one buffer; equal segments share it always."""
        _, height, width, _ = frames.shape
        resized = resized_sides(height, width, self.short_side)
        frames = crop_resize(frames, CropBox(0, 0, height, width), resized, "bilinear")
        begins = places[:, 0]
        if (places != begins[:, None] + np.arange(self.num_frames)).any():
            segments, segment_of = np.unique(places, axis=0, return_inverse=True)
            frames, begins = frames[torch.from_numpy(segments.ravel())], self.num_frames * segment_of.reshape(-1)
        return _views(frames, begins, self.num_frames, crop_boxes(*resized, self.size, self.crops))


def _views(frames: torch.Tensor, begins: np.ndarray, num_frames: int, boxes: Sequence[CropBox]) -> CroppedClips:
    """Clips of `num_frames` frames from each of `begins` on and of each of `boxes`; of the frames, what boxes cover."""
    (top, left, *size), last = boxes[0], boxes[-1]
    frames = frames[:, top : last.top + last.height, left : last.left + last.width].contiguous()
    inside = [box._replace(top=box.top - top, left=box.left - left) for box in boxes]
    first = frames[:num_frames]
    clips = crop_clips([first], [0] * len(boxes), inside, [False] * len(boxes), (size[0], size[1]), "bilinear")
    geometry = clips.geometry.repeat(len(begins), 1)
    geometry[:, GEOMETRY.index("begin")] = torch.from_numpy(begins.repeat(len(boxes))) * first[0].numel()
    return replace(
        clips,
        frames=frames.view(-1),
        geometry=geometry,
        first=clips.first.repeat(len(begins), 1),
        weights=clips.weights.repeat(len(begins), 1, 1),
    )


def resized_sides(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The size of resized frames.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        short_side: wanted shorter side, in pixels.

    Returns:
        (height, width); the longer side is in proportion, rounded down.
    """
    long_side = short_side * max(height, width) // min(height, width)
    return (long_side, short_side) if width < height else (short_side, long_side)


def crop_boxes(height: int, width: int, size: tuple[int, int], crops: int) -> list[CropBox]:
    """The boxes of evaluation crops, spread along the longer side of the frames.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        size: (H, W) of a crop, in pixels; it fits in the frames.
        crops: number of crops.

    Returns:
        The boxes, from the top or left on.
    """
    along_height = height >= width
    tops = spread_evenly(height - size[0], crops if along_height else 1)
    lefts = spread_evenly(width - size[1], 1 if along_height else crops)
    return [CropBox(top, left, *size) for top in tops.tolist() for left in lefts.tolist()]
