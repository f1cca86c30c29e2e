"""Clips that exist only as crop boxes of decoded frames: `CroppedClips`, and how they are made and joined."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from .._checks import (
    INT32,
    INT64,
    UINT8,
    check_choice,
    check_count,
    check_counts,
    check_flag,
    check_sequence,
    check_tensor,
    describe,
)
from .resize import axis_taps, tap_bucket

RESIZES = ("bilinear", "antialias", "pillow")
# Columns of `CroppedClips.geometry`. The ops on listed tokens read the first five, `crop_matrix` the others.
GEOMETRY = ("begin", "height", "width", "down", "across", "top", "left", "box_height", "box_width", "flipped")


@dataclass(frozen=True, eq=False)
class CroppedClips:
    """B clips, each a box of a decoded source, resized to (H, W) and flipped left to right or not.

    `crop_clips` makes them. The ops take them in place of a clip tensor and make the pixels of listed tokens, and no
    others. Line l < H is row l of a clip, line H + l its column l; w are the weights as numbers:

        clip[y, x] = Σ_i w[i, y] · Σ_j w[j, H + x] · source[first[y] + i, first[H + x] + j],  i < down, j < across

    `resize` names the filter. Each sees the crop alone: pixels outside the box never show.

        "bilinear"   F.interpolate(crop, size, mode="bilinear")
        "antialias"  F.interpolate(crop, size, mode="bilinear", antialias=True)
        "pillow"     PIL.Image.resize(size, BILINEAR): the same filter, but on uint8, rounded after the width and
                     again after the height. Pillow 13 changed the order of the two, which can change a pixel by 1.

    "pillow" and "antialias" differ by at most 1 of 255 (mean 0.2). "bilinear" skips pixels when it shrinks: on 39
    real videos of a short side of 256 it was up to 18 off (mean 0.26); unscaled, of up to 720 lines, up to 66.

    The sources of a batch may differ in size: their frames lie one after another in one buffer. Padded to the
    largest, random batches of 8 of the 39 videos took 3.2 times the bytes. The ops check on a CPU, and on a GPU inside
    `check_indices()`, that every box lies in its source.

    Args:
        frames: uint8, flat: for each source in turn (T, height, width, C) contiguous.
        geometry: (B, 10) int64: where the clip's source begins in `frames`, its height (times `step`) and its width in
            pixels; the clip's numbers of taps, down along its rows' source rows and across; its box in the source (top,
            left, height, width), and 1 if it is flipped. A clip costs its own taps, not those of the batch.
        first: (B, H + W) int32: source row or column of a line's first tap.
        weights: (B, taps, H + W) int32: bits of float32; for "pillow" integers in units of 2⁻²². No tensor of a batch
            is floating, so nothing that casts a model's inputs (FSDP2's mixed precision) changes a filter. `taps` is
            one of 2, 3, 4, 6, 8, 12, 16, 24, … (`tap_bucket`): a kernel is compiled for each.
        num_frames: T.
        size: (H, W) of the clips in pixels.
        resize: "bilinear", "antialias" or "pillow".
        channels: C.
        step: frames of the source from one frame of a clip to the next; `every` makes those above 1.

    Raises:
        TypeError: a tensor has another dtype, or a number is of another type.
        ValueError: a tensor has another shape, a number is out of range, `resize` is unknown, or the tensors are not
            on one device.

    References:
        `GroupMultiScaleCrop` of VideoMAE V2, dataset/transforms.py (OpenGVLab/VideoMAEv2), resizes as "pillow" does.
    """

    frames: Tensor
    geometry: Tensor
    first: Tensor
    weights: Tensor
    num_frames: int
    size: tuple[int, int]
    resize: str = "antialias"
    channels: int = 3
    step: int = 1

    def __post_init__(self) -> None:
        check_choice(self.resize, "resize", RESIZES)
        check_count(self.num_frames, "num_frames")
        check_count(self.channels, "channels")
        check_count(self.step, "step")
        lines = sum(check_counts(self.size, "size", "two positive sizes (H, W)", 2))
        check_tensor(self.frames, "frames", UINT8, ("bytes",))
        check_tensor(self.geometry, "geometry", INT64, ("B", len(GEOMETRY)), self.frames)
        batch = self.geometry.shape[0]
        check_tensor(self.first, "first", INT32, (batch, lines), self.frames)
        check_tensor(self.weights, "weights", INT32, (batch, "taps", lines), self.frames)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(frames, geometry, first, weights) as an op takes them: weights as numbers, int32 for "pillow" alone."""
        weights = self.weights if self.resize == "pillow" else self.weights.view(torch.float32)
        return self.frames, self.geometry, self.first, weights

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
        """Bytes of the tensors, which `to` copies."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __getitem__(self, clips: slice) -> "CroppedClips":
        """Some of the clips, as `tensor[clips]` of a tensor of clips. Nothing is copied: all share `frames`."""
        geometry, first, weights = self.geometry[clips], self.first[clips], self.weights[clips]
        return replace(self, geometry=geometry, first=first, weights=weights)  # boxes count from the shared beginning

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CroppedClips":
        """The same clips with their tensors on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "CroppedClips":
        """The same clips in page-locked memory, from which copies to a GPU are asynchronous."""
        return self._each(Tensor.pin_memory)

    def every(self, step: int) -> "CroppedClips":
        """A view of some frames: `clip[:, :, ::step]` of the materialised clip. The bytes of the frames are shared.

        To the ops the frames between are rows of the source below those of a frame, where no box reaches.
        `warp_clips`, which reads outside of boxes, refuses such clips.

        Args:
            step: takes frames 0, step, 2·step, … It divides T.

        Returns:
            Clips of T / step frames, and of a `step` that is `step` times theirs.

        Raises:
            ValueError: `step` does not divide T.
            TypeError: `step` is no integer.
        """
        step = check_count(step, "step", high=self.num_frames)
        if self.num_frames % step:
            raise ValueError(f"step must divide the {self.num_frames} frames of the clips, got {step}")
        geometry = self.geometry.clone()
        geometry[:, GEOMETRY.index("height")] *= step
        return replace(self, geometry=geometry, num_frames=self.num_frames // step, step=self.step * step)

    def padded(self, num_bytes: int, taps: int) -> "CroppedClips":
        """The same clips in tensors of sizes that do not depend on them, as a CUDA graph needs.

        Args:
            num_bytes: bytes of `frames`, at least as many as there are; zeros follow.
            taps: of `weights`, at least as many as there are; weights of zero follow. A clip costs no more for them.

        Returns:
            Clips of the same pixels, in new tensors where a size changed.

        Raises:
            ValueError: `num_bytes` or `taps` is smaller than what is there.
            TypeError: one is no integer.
        """
        more_bytes = check_count(num_bytes, "num_bytes", self.frames.numel()) - self.frames.numel()
        more_taps = check_count(taps, "taps", self.weights.shape[1]) - self.weights.shape[1]
        frames = functional.pad(self.frames, (0, more_bytes)) if more_bytes else self.frames
        weights = functional.pad(self.weights, (0, 0, 0, more_taps)) if more_taps else self.weights
        return replace(self, frames=frames, weights=weights)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "CroppedClips":
        frames, geometry, first, weights = map(change, (self.frames, self.geometry, self.first, self.weights))
        return replace(self, frames=frames, geometry=geometry, first=first, weights=weights)


def cat_clips(clips: Sequence[CroppedClips]) -> CroppedClips:
    """Several batches of cropped clips as one: the clips of the first, then the clips of the second, and so on.

    Args:
        clips: at least one batch, all of the same (C, T, H, W), `resize` and `step`. Frames are copied, one after another.

    Returns:
        One batch. Clips of fewer taps get taps of weight zero.

    Raises:
        TypeError: `clips` is no sequence of `CroppedClips`.
        ValueError: the clips differ in channels, frames, size, `resize`, `step` or device, or there are none.
    """
    check_sequence(clips, "clips", "CroppedClips")
    if not len(clips):
        raise ValueError("clips must have at least one batch, got none")
    like = clips[0]
    geometry, begin = [], 0
    for one in clips:
        if not isinstance(one, CroppedClips):
            raise TypeError(f"clips must be CroppedClips, got {describe(one)}")
        if one.device != like.device:
            raise ValueError(f"clips must be on one device, got {like.device}, then {one.device}")
        if (one.shape[1:], one.resize, one.step) != (like.shape[1:], like.resize, like.step):
            raise ValueError(
                f"clips must be alike, got (C, T, H, W) = {like.shape[1:]} of step {like.step} resized by '{like.resize}', "
                f"then {one.shape[1:]} of step {one.step} by '{one.resize}'"
            )
        geometry.append(one.geometry.clone())
        geometry[-1][:, GEOMETRY.index("begin")] += begin
        begin += one.frames.numel()
    return replace(
        like,
        frames=torch.cat([one.frames for one in clips]),
        geometry=torch.cat(geometry),
        first=torch.cat([one.first for one in clips]),
        weights=_join_weights([weights for one in clips for weights in one.weights]),
    )


def crop_clips(
    sources: Sequence[Tensor],
    source: Sequence[int],
    box: Sequence[Sequence[int]],
    flipped: Sequence[bool],
    size: tuple[int, int],
    resize: str = "antialias",
) -> CroppedClips:
    """Clips of boxes in decoded sources.

        clip_b = flip_b(resize(sources[source_b][:, top_b : top_b + height_b, left_b : left_b + width_b], size))

    Nothing is resized here: the pixels of each source's smallest rectangle around its boxes are copied, and the
    filter weights of every line are computed; the ops resize where their index points.

    Args:
        sources: uint8 (T, height, width, C) decoded frames of any heights and widths, all on one device. Frames on a
            GPU are used where they are; the host does not wait for it.
        source: of each clip, the number of its source in `sources`.
        box: of each clip, (top, left, height, width) in pixels of its source.
        flipped: of each clip, whether it is flipped left to right.
        size: (H, W) of the clips in pixels.
        resize: "bilinear", "antialias" or "pillow", see `CroppedClips`.

    Returns:
        B clips on the device of the sources, where B is the length of `source`.

    Raises:
        TypeError: `sources` are no uint8 tensors, a list is no list, or a number is of another type.
        ValueError: `resize` is unknown, `sources` are not alike or empty, the lists differ in length, a number has no
            source, or a box does not lie in its source.
    """
    check_choice(resize, "resize", RESIZES)
    height, width = check_counts(size, "size", "two positive sizes (H, W)", 2)
    size = height, width
    num_frames, channels = _check_sources(sources)
    for name, values in (("source", source), ("box", box), ("flipped", flipped)):
        check_sequence(values, name, "one entry for each clip")
    if not len(source) == len(box) == len(flipped) > 0:
        raise ValueError(
            "source, box and flipped must have one entry for each clip, "
            f"got {len(source)}, {len(box)} and {len(flipped)}"
        )
    source = [check_count(number, "source", 0, len(sources) - 1) for number in source]
    box = [_check_box(one, sources[number]) for number, one in zip(source, box, strict=True)]
    flipped = [check_flag(flip, "flipped") for flip in flipped]
    boxes: list[list[Sequence[int]]] = [[] for _ in sources]
    for number, one in zip(source, box, strict=True):
        boxes[number].append(one)
    windows = [_around(boxes_of_source) for boxes_of_source in boxes]
    begins = [0]
    for _, _, height, width in windows:
        begins.append(begins[-1] + num_frames * height * width * channels)
    buffer = sources[0].new_empty(begins[-1])
    for frames, begin, (top, left, height, width) in zip(sources, begins, windows, strict=False):
        part = frames[:, top : top + height, left : left + width]
        buffer[begin : begin + part.numel()].view(part.shape).copy_(part)
    geometry, firsts, weights = [], [], []
    for number, (top, left, height, width), flip in zip(source, box, flipped, strict=True):
        first_row, first_column, *sides = windows[number]
        inside = (top - first_row, left - first_column, height, width)
        lines, of_lines, taps = _clip_taps(inside, flip, size, resize)
        geometry.append([begins[number], *sides, *taps, *inside, int(flip)])
        firsts.append(lines)
        weights.append(of_lines)
    tables = torch.tensor(geometry), torch.stack(firsts), _join_weights(weights)
    on_device = (_upload(table, buffer) for table in tables)
    return CroppedClips(buffer, *on_device, num_frames, size, resize, channels)  # type: ignore[call-arg, arg-type]


def _join_weights(weights: Sequence[Tensor]) -> Tensor:
    """(B, taps, lines) of each clip's (taps, lines), with as many taps as the bucket of the largest has."""
    joined = pad_sequence(list(weights), batch_first=True)
    return functional.pad(joined, (0, 0, 0, tap_bucket(joined.shape[1]) - joined.shape[1]))


def _upload(tensor: Tensor, like: Tensor) -> Tensor:
    """On the device of `like`; the host does not wait for the copy."""
    return tensor.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else tensor.to(like.device)


def _clip_taps(
    box: Sequence[int], flipped: bool, size: Sequence[int], resize: str
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """First tap (H + W,) and weights (taps, H + W) of every line of a clip, and its taps (down, across)."""
    top, left, height, width = box
    rows, row_weights = axis_taps(height, size[0], resize)
    columns, column_weights = axis_taps(width, size[1], resize)
    if flipped:
        columns, column_weights = columns.flip(0), column_weights.flip(1)
    taps = len(row_weights), len(column_weights)
    weights = row_weights.new_zeros(max(taps), sum(size))
    weights[: taps[0], : size[0]] = row_weights
    weights[: taps[1], size[0] :] = column_weights
    return torch.cat([rows + top, columns + left]), weights, taps


def _check_sources(sources: Sequence[Tensor]) -> tuple[int, int]:
    """(T, C) of all sources."""
    if not len(check_sequence(sources, "sources", "uint8 tensors (T, height, width, C)")):
        raise ValueError("sources must not be empty")
    check_tensor(sources[0], "sources", UINT8, ("T", "height", "width", "C"))
    num_frames, channels = sources[0].shape[0], sources[0].shape[3]
    for frames in sources:
        check_tensor(frames, "sources", UINT8, (num_frames, "height", "width", channels))
        if frames.device != sources[0].device:
            raise ValueError(f"sources must be on one device, got {sources[0].device}, then {frames.device}")
    if num_frames < 1 or channels < 1:
        raise ValueError(f"sources must have frames and channels, got shape {tuple(sources[0].shape)}")
    return num_frames, channels


def _check_box(box: Sequence[int], frames: Tensor) -> tuple[int, int, int, int]:
    if len(check_sequence(box, "box", "(top, left, height, width)")) != 4:
        raise ValueError(f"box must have (top, left, height, width) for each clip, got {describe(box)}")
    top, left, height, width = (check_count(value, "box", 0) for value in box)
    full_height, full_width = frames.shape[1:3]
    inside = 0 <= top <= full_height - height and 0 <= left <= full_width - width and min(height, width) >= 1
    if not inside:
        raise ValueError(f"box {(top, left, height, width)} does not lie in frames of {full_height} x {full_width}")
    return top, left, height, width


def _around(boxes: Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
    """The smallest box around all `boxes`; an empty one around none."""
    if not boxes:
        return 0, 0, 0, 0
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    return top, left, max(box[0] + box[2] for box in boxes) - top, max(box[1] + box[3] for box in boxes) - left
