"""crop_clips: what an op needs of decoded frames to make clips of boxes in them, in one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ._resize import axis_taps
from .cropped_clips import RESIZES, CroppedClips


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
