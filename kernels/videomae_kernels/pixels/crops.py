"""CroppedClips: a batch of clips that exist only as crop boxes of decoded frames.

Each clip shows a box (top, left, height, width) of a decoded source, resized to `size` = (H, W), mirrored left to
right or not. The ops take it in place of a clip tensor and make the pixels of listed tokens, and no others:

    resize "bilinear":   F.interpolate(crop, size, mode="bilinear")
    resize "antialias":  F.interpolate(crop, size, mode="bilinear", antialias=True)
    resize "pillow":     PIL.Image.resize(size, BILINEAR): the same filter, but on uint8, rounded after the width and
                         again after the height (the published augmentation, `GroupMultiScaleCrop` in VideoMAE V2's
                         dataset/transforms.py; Pillow 13 changed the order of the two, which can change a pixel by 1)

each of the crop alone: pixels outside the box never show. `resize.py` has the filters' weights. "pillow" rounds twice
what "antialias" does not round: they differ by at most 1 of 255 (mean 0.2). "bilinear" skips pixels when it shrinks: on
39 real videos of a short side of 256 it was up to 18 off (mean 0.26), unscaled, of up to 720 lines, 66.

The sources of a batch may differ in size. Their frames lie one after another in one buffer: padded to the largest,
random batches of 8 of those videos took 3.2 times the bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .._checks import check_device
from .resize import axis_taps

RESIZES = ("bilinear", "antialias", "pillow")


@dataclass(frozen=True, eq=False)
class CroppedClips:
    """B clips, as `crop_clips` makes them. Line l < H is row l of a clip, line H + l its column l.

    The pixel (y, x) of a clip is the sum of the source's pixels (first[y] + i, first[H + x] + j) times
    weights[i, y] · weights[j, H + x]. Values are not checked.
    """

    frames: Tensor  # uint8, flat: for each source in turn (T, height, width, C) contiguous
    geometry: Tensor  # (B, 3) int64: where the clip's source begins in `frames`, its height and its width
    first: Tensor  # (B, H + W) int32: source row or column of a line's first tap
    weights: Tensor  # (B, taps, H + W) float32; int32 in units of 2⁻²² for "pillow"
    num_frames: int  # T
    size: tuple[int, int]  # (H, W) of the clips
    resize: str = "antialias"  # one of RESIZES
    channels: int = 3  # C

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {RESIZES}, got '{self.resize}'")
        batch, lines, taps = len(self.geometry), sum(self.size), self.weights.shape[1:2]
        fixed = torch.int32 if self.resize == "pillow" else torch.float32
        for name, dtype, shape in (
            ("frames", torch.uint8, (self.frames.numel(),)),
            ("geometry", torch.int64, (batch, 3)),
            ("first", torch.int32, (batch, lines)),
            ("weights", fixed, (batch, *taps, lines)),
        ):
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != shape:
                found = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                raise TypeError(f"{name} must be {dtype} of shape {shape}, got {found}")
            check_device(tensor, name, self.frames)

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
        """Where the tensors are."""
        return self.frames.device

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors: what `to` copies."""
        return self.frames.nbytes + self.geometry.nbytes + self.first.nbytes + self.weights.nbytes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CroppedClips":
        """The same clips with their tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "CroppedClips":
        """The same clips in page-locked memory, from where copies to a GPU need no waiting."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "CroppedClips":
        tensors = {name: change(getattr(self, name)) for name in ("frames", "geometry", "first", "weights")}
        return replace(self, **tensors)  # type: ignore[arg-type]


def cat_clips(clips: Sequence[CroppedClips]) -> CroppedClips:
    """One batch of several, in their order. ValueError if their clips differ in frames, size, resize or channels."""
    like = clips[0]
    geometry, begin = [], 0
    for one in clips:
        if (one.shape[1:], one.resize) != (like.shape[1:], like.resize):
            raise ValueError(
                f"clips must be alike, got (C, T, H, W) = {like.shape[1:]} resized by '{like.resize}', "
                f"then {one.shape[1:]} by '{one.resize}'"
            )
        geometry.append(one.geometry + torch.tensor([begin, 0, 0]))
        begin += one.frames.numel()
    return replace(
        like,
        frames=torch.cat([one.frames for one in clips]),
        geometry=torch.cat(geometry),
        first=torch.cat([one.first for one in clips]),
        weights=pad_sequence([weights for one in clips for weights in one.weights], batch_first=True),
    )


def crop_clips(
    sources: Sequence[Tensor],  # uint8 (T, height, width, C), of any sizes, on the CPU
    source: Sequence[int],  # of each clip, its number in `sources`
    box: Sequence[Sequence[int]],  # of each clip, (top, left, height, width)
    mirrored: Sequence[bool],  # of each clip
    size: tuple[int, int],  # (H, W)
    resize: str = "antialias",
) -> CroppedClips:
    """Clips of boxes in decoded sources. Of each source the smallest rectangle around its boxes is copied.

    Errors: ValueError for sources that are not alike, lists of different lengths, a number that no source has, a box
    outside its source, or an unknown `resize`.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize must be one of {RESIZES}, got '{resize}'")
    num_frames, channels = _check_sources(sources)
    if not len(source) == len(box) == len(mirrored) > 0:
        raise ValueError(
            f"source, box and mirrored must have one entry for each clip, got {len(source)}, {len(box)} and "
            f"{len(mirrored)}"
        )
    if not set(source) <= set(range(len(sources))):
        raise ValueError(f"source must name sources by numbers in [0, {len(sources)}), got {list(source)}")
    boxes: list[list[Sequence[int]]] = [[] for _ in sources]
    for number, one in zip(source, box, strict=True):
        _check_box(one, sources[number])
        boxes[number].append(one)
    windows = [_around(those) for those in boxes]
    begins = [0]
    for _, _, height, width in windows:
        begins.append(begins[-1] + num_frames * height * width * channels)
    buffer = torch.empty(begins[-1], dtype=torch.uint8)
    for frames, begin, (top, left, height, width) in zip(sources, begins, windows, strict=False):
        part = frames[:, top : top + height, left : left + width]
        buffer[begin : begin + part.numel()].view(part.shape).copy_(part)
    geometry, taps = [], []
    for number, (top, left, height, width), flip in zip(source, box, mirrored, strict=True):
        first_row, first_column, *sides = windows[number]
        geometry.append([begins[number], *sides])
        inside = (top - first_row, left - first_column, height, width)
        taps.append(_clip_taps(inside, flip, size, resize))
    first = torch.stack([lines for lines, _ in taps])
    weights = pad_sequence([weights for _, weights in taps], batch_first=True)
    return CroppedClips(buffer, torch.tensor(geometry), first, weights, num_frames, size, resize, channels)


def _clip_taps(box: Sequence[int], mirrored: bool, size: Sequence[int], resize: str) -> tuple[Tensor, Tensor]:
    """First tap (H + W,) and weights (taps, H + W) of every line of a clip."""
    top, left, height, width = box
    rows, row_weights = axis_taps(height, size[0], resize)
    columns, column_weights = axis_taps(width, size[1], resize)
    if mirrored:
        columns, column_weights = columns.flip(0), column_weights.flip(1)
    weights = row_weights.new_zeros(max(len(row_weights), len(column_weights)), sum(size))
    weights[: len(row_weights), : size[0]] = row_weights
    weights[: len(column_weights), size[0] :] = column_weights
    return torch.cat([rows + top, columns + left]), weights


def _check_sources(sources: Sequence[Tensor]) -> tuple[int, int]:
    """(T, C) of all of them."""
    shape = tuple(sources[0].shape) if len(sources) else ()
    for frames in sources:
        alike = frames.ndim == len(shape) == 4 and (frames.shape[0], frames.shape[3]) == (shape[0], shape[3])
        if frames.dtype != torch.uint8 or not alike:
            raise ValueError(
                "sources must be uint8 (T, height, width, C), T and C the same for all, got "
                f"{frames.dtype} {tuple(frames.shape)} where the first is {shape}"
            )
    if not shape:
        raise ValueError("sources must not be empty")
    return shape[0], shape[3]


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
