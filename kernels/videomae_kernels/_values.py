"""Checks of tensor values: token numbers in range and unique, crop boxes inside their frames.

They run inside the ops' implementations (`_custom_op.define_op`), where values exist: not while a graph is traced or
memory is predicted, but whenever an op really runs, from a compiled graph too. On a CPU they are always on. On a GPU
each is a host sync, so they run only inside `check_indices()`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_on_gpu = False


@contextmanager
def check_indices() -> Iterator[None]:
    """Context in which the ops check index values on a GPU as they always do on a CPU: in range, unique per sample.

        0 ≤ index[b, k] < N,   index[b, k] ≠ index[b, l] for k ≠ l

    Crop boxes are checked, too: each lies in its frames; and places of samples: each is there once. On a GPU each check
    is a host sync, so use this to find a bug, not in training. Contexts may be nested.

    Returns:
        A context manager.

    Raises:
        ValueError: from an op inside the context, naming the argument and the values or the sample.
    """
    global _on_gpu
    previous, _on_gpu = _on_gpu, True
    try:
        yield
    finally:
        _on_gpu = previous


def checks_values(device: torch.device) -> bool:
    """Whether ops on `device` look at the values of their arguments."""
    return _on_gpu or device.type == "cpu"


def check_index_values(index: Tensor, name: str, limit: int, *, ascending: bool = False) -> None:
    """Each row of `index` (B, K) must hold different numbers in [0, limit), in ascending order if that is asked for."""
    check_range(index, name, limit)
    if bool((index[:, 1:] > index[:, :-1]).all()):
        return
    ordered = index.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
    if bool(repeated.any()):
        sample = int(repeated.nonzero()[0])
        raise ValueError(f"{name} must not repeat a token within a sample, but sample {sample} does")
    if ascending:
        raise ValueError(f"{name} must be ascending within a sample, got {index.tolist()[0][:8]} … in the first")


def check_range(index: Tensor, name: str, limit: int) -> None:
    """Every number in `index` must be in [0, limit)."""
    if index.numel() == 0:
        return
    low, high = (int(value) for value in index.aminmax())
    if low < 0 or high >= limit:
        raise ValueError(f"{name} must lie in [0, {limit}), got values from {low} to {high}")


def check_sources(frames: Tensor, geometry: Tensor, shape: Sequence[int]) -> None:
    """Every source in `CroppedClips.geometry` must lie in the frames; `shape` is that of the clips."""
    if geometry.numel() == 0:
        return
    begin, sides = geometry[:, 0], geometry[:, 1:3]
    smallest, largest = (int(value) for value in sides.aminmax())
    if smallest < 1 or largest > frames.numel():
        raise ValueError(f"clip.geometry has sources of {smallest} to {largest} pixels a side, which do not exist")
    end = begin + sides.double().prod(dim=1) * (shape[1] * shape[2])  # in float64, which no size overflows
    if int(begin.min()) < 0 or int(end.max()) > frames.numel():
        raise ValueError(
            f"clip.geometry has sources from {int(begin.min())} to {int(end.max())} in frames of {frames.numel()} bytes"
        )


def check_crops(crops: Sequence[Tensor], shape: Sequence[int]) -> None:
    """Every pixel that `CroppedClips.tensors` take must lie in the source of its clip."""
    frames, geometry, first, weights = crops
    if geometry.numel() == 0:
        return
    check_sources(frames, geometry, shape)
    sides, used = geometry[:, 1:3], geometry[:, 3:5]
    fewest, most = (int(value) for value in used.aminmax())
    if fewest < 0 or most > weights.shape[1]:
        raise ValueError(f"clip.geometry has clips of {fewest} to {most} taps, but clip.weights {weights.shape[1]}")
    taps = torch.arange(weights.shape[1], device=weights.device)[:, None]
    lines = torch.tensor(shape[3:5], device=used.device)
    unused = (weights != 0) & (taps >= used.repeat_interleave(lines, dim=1)[:, None])
    if bool(unused.any()):
        raise ValueError(
            f"clip.weights has weights beyond the taps of clip.geometry in clip {int(unused.nonzero()[0, 0])}"
        )
    last = first + torch.where(weights != 0, taps, 0).amax(dim=1)
    side = sides.repeat_interleave(lines, dim=1)
    outside = (first < 0) | (last >= side)
    if bool(outside.any()):
        clip, line = (int(value) for value in outside.nonzero()[0])
        raise ValueError(
            f"clip.first and clip.weights must stay in the {int(side[clip, line])} lines of the source, but line "
            f"{line} of clip {clip} takes lines {int(first[clip, line])} to {int(last[clip, line])}"
        )
