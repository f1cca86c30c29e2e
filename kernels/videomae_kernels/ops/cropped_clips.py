"""CroppedClips: a batch of clips that exist only as crop boxes of decoded frames.

Each clip shows a box (top, left, height, width) of a decoded source, resized to `size` = (H, W), mirrored left to
right or not. The ops take it in place of a clip tensor and make the pixels of listed tokens, and no others:

    resize "bilinear":   F.interpolate(crop, size, mode="bilinear")
    resize "antialias":  F.interpolate(crop, size, mode="bilinear", antialias=True)
    resize "pillow":     PIL.Image.resize(size, BILINEAR): the same filter, but on uint8, rounded after the width and
                         again after the height (the published augmentation, `GroupMultiScaleCrop` in VideoMAE V2's
                         dataset/transforms.py; Pillow 13 changed the order of the two, which can change a pixel by 1)

each of the crop alone: pixels outside the box never show. The sources of a batch may differ in size; their frames lie
one after another in one buffer. Separable weights of a pixel along one axis, for a box side s, an output side S and
scale = s / S:

    bilinear    two taps around max((o + ½)·scale − ½, 0)
    others      a triangle of half width max(scale, 1) around (o + ½)·scale, cut off at the box, with sum 1
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
FIXED_POINT = 2**22  # Pillow's weights are integers in this unit


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


def crop_clips(
    sources: Sequence[Tensor],  # uint8 (T, height, width, C), of any sizes, on the CPU
    source: Sequence[int],  # of each clip, its number in `sources`
    box: Sequence[Sequence[int]],  # of each clip, (top, left, height, width)
    mirrored: Sequence[bool],  # of each clip
    size: tuple[int, int],  # (H, W)
    resize: str = "antialias",
) -> CroppedClips:
    """Clips of boxes in decoded sources, which are copied into one buffer. ValueError for a box outside its source."""
    num_frames, _, _, channels = sources[0].shape
    firsts = [0]
    for frames in sources:
        if (
            frames.dtype != torch.uint8
            or frames.ndim != 4
            or (frames.shape[0], frames.shape[3]) != (num_frames, channels)
        ):
            raise ValueError(
                f"sources must be uint8 ({num_frames}, height, width, {channels}) as the first, got {frames.dtype} "
                f"{tuple(frames.shape)}"
            )
        firsts.append(firsts[-1] + frames.numel())
    rows = []
    for number, (top, left, height, width), flip in zip(source, box, mirrored, strict=True):
        full_height, full_width = sources[number].shape[1:3]
        inside = 0 <= top <= full_height - height and 0 <= left <= full_width - width and min(height, width) >= 1
        if not inside:
            raise ValueError(f"box {(top, left, height, width)} does not lie in frames of {full_height} x {full_width}")
        rows.append([firsts[number], full_height, full_width, top, left, height, width, int(flip)])
    frames = torch.cat([frames.reshape(-1) for frames in sources])
    return CroppedClips(frames, torch.tensor(rows, dtype=torch.int64), num_frames, size, resize, channels)


def axis_weights(side: int, out: int, resize: str, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """First tap (out,) int64 and weights (out, taps) float64 of every output pixel along one axis of a box."""
    scale = side / out
    position = torch.arange(out, dtype=torch.float64)
    if resize == "bilinear":
        at = (position + 0.5).mul_(scale).sub_(0.5).clamp_(min=0)
        first = at.floor().clamp_(max=side - 1)
        second = (at - first)[:, None]
        weights = torch.cat([1 - second, second], dim=1)
        weights[first == side - 1] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    else:
        reach = max(scale, 1.0)
        centre = (position + 0.5) * scale
        first = (centre - reach + 0.5).floor().clamp_(min=0)
        last = (centre + reach + 0.5).floor().clamp_(max=side)
        tap = torch.arange(int((last - first).max()), dtype=torch.float64)
        weights = (1 - ((first[:, None] + tap - centre[:, None] + 0.5) / reach).abs()).clamp_(min=0)
        weights[tap >= (last - first)[:, None]] = 0
        weights /= weights.sum(1, keepdim=True)
    if resize == "pillow":
        weights = (weights * FIXED_POINT + 0.5).floor()
    first = first.long()
    return (first.flip(0), weights.flip(0)) if mirrored else (first, weights)


def _windows(side: int, out: int, patch: int, resize: str, mirrored: bool) -> tuple[Tensor, Tensor]:
    """For each of out/patch tokens along an axis: source positions (n, L) of its window, and weights (n, patch, L)."""
    first, weights = axis_weights(side, out, resize, mirrored)
    taps = first[:, None] + torch.arange(weights.shape[1])
    taps, weights = taps.unflatten(0, (-1, patch)), weights.unflatten(0, (-1, patch))
    start = first.unflatten(0, (-1, patch)).amin(1)
    length = int((taps.amax((1, 2)) + 1 - start).max())
    matrix = weights.new_zeros(len(start), patch, length)
    matrix.scatter_add_(2, taps - start[:, None, None], weights)
    return (start[:, None] + torch.arange(length)).clamp_(max=side - 1), matrix


def token_pixels(clips: CroppedClips, index: Tensor, patch: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Pixels of the listed tokens, (B, K, C, τ, p, p) in [0, 255], on the CPU."""
    with torch.autocast("cpu", enabled=False):  # pixels keep their precision, as in every other op
        return torch.stack([_one_clip(clips, b, index[b], patch, dtype) for b in range(index.shape[0])])


def _one_clip(clips: CroppedClips, b: int, index: Tensor, patch: Sequence[int], dtype: torch.dtype) -> Tensor:
    first, height, width, top, left, box_height, box_width, mirrored = clips.geometry[b].tolist()
    count = clips.num_frames * height * width * clips.channels
    frames = clips.frames[first : first + count].view(clips.num_frames, height, width, clips.channels)
    grid_h, grid_w = clips.size[0] // patch[1], clips.size[1] // patch[2]
    rows, row_weights = _windows(box_height, clips.size[0], patch[1], clips.resize, False)
    columns, column_weights = _windows(box_width, clips.size[1], patch[2], clips.resize, bool(mirrored))
    t, h, w = index // (grid_h * grid_w), index // grid_w % grid_h, index % grid_w
    frame = t[:, None] * patch[0] + torch.arange(patch[0])
    window = frames[frame[:, :, None, None], (top + rows[h])[:, None, :, None], (left + columns[w])[:, None, None, :]]
    exact = torch.float64 if clips.resize == "pillow" else dtype  # sums of integers below 2⁵³
    pixels = torch.einsum("ktylc,kxl->ktyxc", window.to(exact), column_weights[w].to(exact))
    if clips.resize == "pillow":
        pixels = _round(pixels)
    pixels = torch.einsum("ktyxc,kry->kctrx", pixels, row_weights[h].to(exact))
    return (_round(pixels) if clips.resize == "pillow" else pixels).to(dtype)


def _round(pixels: Tensor) -> Tensor:
    return pixels.add_(FIXED_POINT // 2).div_(FIXED_POINT).floor_().clamp_(0, 255)
