"""CroppedClips: a batch of clips that exist only as crop boxes of decoded frames.

Each clip shows a box (top, left, height, width) of a decoded source, resized to `size` = (H, W), mirrored left to
right or not. The ops take it in place of a clip tensor and make the pixels of listed tokens, and no others:

    resize "bilinear":   F.interpolate(crop, size, mode="bilinear")
    resize "antialias":  F.interpolate(crop, size, mode="bilinear", antialias=True)
    resize "pillow":     PIL.Image.resize(size, BILINEAR): the same filter, but on uint8, rounded after the width and
                         again after the height (the published augmentation, `GroupMultiScaleCrop` in VideoMAE V2's
                         dataset/transforms.py; Pillow 13 changed the order of the two, which can change a pixel by 1)

each of the crop alone: pixels outside the box never show. The filters' weights stand in `_resize`. What "pillow" rounds
twice "antialias" does not round, so that they differ by at most 1 of 255 (mean 0.2). "bilinear" skips pixels when it
shrinks: on 39 real videos of a short side of 256 it was up to 18 off (mean 0.26), unscaled, of up to 720 lines, 66.

The sources of a batch may differ in size. Their frames lie one after another in one buffer: padded to the largest,
random batches of 8 of those videos took 3.2 times the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._checks import check_device

RESIZES = ("bilinear", "antialias", "pillow")
# Columns of `geometry`. `first` is where the clip's source begins in `frames`; the rest is in its pixels, but for
# `mirrored`, which is 0 or 1.
GEOMETRY = ("first", "height", "width", "top", "left", "box_height", "box_width", "mirrored")


@dataclass(frozen=True, eq=False)
class CroppedClips:
    """B clips; see the module docstring, and `crop_clips`, which makes them. Values of `geometry` are not checked."""

    frames: Tensor  # uint8, flat: for each source in turn (T, height, width, C) contiguous
    geometry: Tensor  # (B, 8) int64, columns GEOMETRY
    num_frames: int  # T
    size: tuple[int, int]  # (H, W) of the clips
    resize: str = "antialias"  # one of RESIZES
    channels: int = 3  # C

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {RESIZES}, got '{self.resize}'")
        if self.frames.dtype != torch.uint8 or self.frames.ndim != 1:
            raise TypeError(f"frames must be flat uint8, got {self.frames.dtype} of shape {tuple(self.frames.shape)}")
        if self.geometry.dtype != torch.int64 or self.geometry.shape != (len(self.geometry), len(GEOMETRY)):
            found = f"{self.geometry.dtype} of shape {tuple(self.geometry.shape)}"
            raise TypeError(f"geometry must be int64 of shape (B, {len(GEOMETRY)}), got {found}")
        check_device(self.geometry, "geometry", self.frames)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(B, C, T, H, W)."""
        return self.geometry.shape[0], self.channels, self.num_frames, *self.size

    @property
    def dtype(self) -> torch.dtype:
        """uint8: pixels count in [0, 255]."""
        return self.frames.dtype

    @property
    def device(self) -> torch.device:
        """Where the frames are."""
        return self.frames.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CroppedClips":
        """The same clips with their tensors on `device`."""
        frames, geometry = (x.to(device, non_blocking=non_blocking) for x in (self.frames, self.geometry))
        return replace(self, frames=frames, geometry=geometry)

    def pin_memory(self) -> "CroppedClips":
        """The same clips in page-locked memory, from where copies to a GPU need no waiting."""
        return replace(self, frames=self.frames.pin_memory(), geometry=self.geometry.pin_memory())


def crop_clips(
    sources: Sequence[Tensor],  # uint8 (T, height, width, C), of any sizes, on the CPU
    source: Sequence[int],  # of each clip, its number in `sources`
    box: Sequence[Sequence[int]],  # of each clip, (top, left, height, width)
    mirrored: Sequence[bool],  # of each clip
    size: tuple[int, int],  # (H, W)
    resize: str = "antialias",
) -> CroppedClips:
    """Clips of boxes in decoded sources. Of each source the smallest rectangle around its boxes is copied.

    Errors: ValueError for sources that are not alike, or a box outside its source.
    """
    num_frames, channels = _check_sources(sources)
    boxes: list[list[Sequence[int]]] = [[] for _ in sources]
    for number, one in zip(source, box, strict=True):
        _check_box(one, sources[number])
        boxes[number].append(one)
    windows = [_around(those) for those in boxes]
    firsts = [0]
    for _, _, height, width in windows:
        firsts.append(firsts[-1] + num_frames * height * width * channels)
    buffer = torch.empty(firsts[-1], dtype=torch.uint8)
    for frames, first, (top, left, height, width) in zip(sources, firsts, windows, strict=False):
        part = frames[:, top : top + height, left : left + width]
        buffer[first : first + part.numel()].view(part.shape).copy_(part)
    rows = []
    for number, (top, left, height, width), flip in zip(source, box, mirrored, strict=True):
        first_row, first_column, *sides = windows[number]
        rows.append([firsts[number], *sides, top - first_row, left - first_column, height, width, int(flip)])
    return CroppedClips(buffer, torch.tensor(rows, dtype=torch.int64), num_frames, size, resize, channels)


def cat_clips(clips: Sequence[CroppedClips]) -> CroppedClips:
    """One batch of several, in their order. ValueError if their clips differ in frames, size, resize or channels."""
    first = clips[0]
    frames = [one.frames for one in clips]
    geometry = []
    offset = 0
    for one in clips:
        if (one.shape[1:], one.resize) != (first.shape[1:], first.resize):
            raise ValueError(
                f"clips must be alike, got (C, T, H, W) = {first.shape[1:]} resized by '{first.resize}', "
                f"then {one.shape[1:]} by '{one.resize}'"
            )
        geometry.append(one.geometry.clone())
        geometry[-1][:, 0] += offset
        offset += one.frames.numel()
    return replace(first, frames=torch.cat(frames), geometry=torch.cat(geometry))


def _check_sources(sources: Sequence[Tensor]) -> tuple[int, int]:
    """(T, C) of all of them."""
    num_frames, _, _, channels = sources[0].shape
    for frames in sources:
        alike = frames.ndim == 4 and (frames.shape[0], frames.shape[3]) == (num_frames, channels)
        if frames.dtype != torch.uint8 or not alike:
            raise ValueError(
                f"sources must be uint8 ({num_frames}, height, width, {channels}) as the first, got {frames.dtype} "
                f"{tuple(frames.shape)}"
            )
    return num_frames, channels


def _check_box(box: Sequence[int], frames: Tensor) -> None:
    top, left, height, width = box
    full_height, full_width = frames.shape[1:3]
    inside = 0 <= top <= full_height - height and 0 <= left <= full_width - width and min(height, width) >= 1
    if not inside:
        raise ValueError(f"box {(top, left, height, width)} does not lie in frames of {full_height} x {full_width}")


def _around(boxes: Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
    """The smallest box around all `boxes`; an empty one around none."""
    if not boxes:
        return 0, 0, 0, 0
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    return top, left, max(box[0] + box[2] for box in boxes) - top, max(box[1] + box[3] for box in boxes) - left
