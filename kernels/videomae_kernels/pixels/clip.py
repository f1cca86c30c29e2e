"""The one door for a clip: `open_clip` checks everything about it once, and every pixel op starts from its result."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import (
    PIXELS,
    check_counts,
    check_index,
    check_number,
    check_sequence,
    check_tensor,
    describe,
)
from .._values import check_crops, check_index_values
from .crops import CroppedClips
from .reference import is_cropped

DIMENSIONS = "BCTHW"
ChannelStats = tuple[Sequence[float], Sequence[float]]  # (mean, std) of each channel, for pixels in [0, 1]


class OpenClip(NamedTuple):
    """The arguments that the schema of every pixel op begins with, checked."""

    tensors: list[Tensor]  # a tensor clip as (B, C, T, H, W), alone; or `CroppedClips.tensors`, contiguous
    shape: list[int]  # (B, C, T, H, W)
    listed: Tensor  # (B, K) index of the listed tokens, contiguous
    patch: list[int]  # (τ, p, p)
    scale: list[float]  # (C,): pixel · scale + shift is the wanted value
    shift: list[float]  # (C,)


def open_clip(
    clip: Tensor | CroppedClips,
    index: Tensor,
    patch: Sequence[int],
    layout: str = DIMENSIONS,
    *,
    normalize: ChannelStats | None = None,
    denormalize: ChannelStats | None = None,
) -> OpenClip:
    """Check a clip, its patch, index and channel statistics; errors name the argument.

    Args:
        clip: uint8 or floating, five dimensions in the order of `layout`; or crop boxes, whose order is their own.
        index: (B, K) int32 or int64 token numbers.
        patch: (τ, p, p) frames, rows and columns of a token.
        layout: a permutation of "BCTHW".
        normalize: (mean, std) to normalise pixels with, (x − mean) / std.
        denormalize: (mean, std) that a floating clip was normalised with, to undo it: x·std + mean.

    Returns:
        What a pixel op is called with.

    Raises:
        ValueError, TypeError: an argument has another shape, dtype or device, or another value than is allowed.
    """
    tensors, shape, sides = open_pixels(clip, patch, layout)
    index = check_index(index, "index", batch=shape[0], limit=num_tokens(shape, sides), like=tensors[0])
    if denormalize is not None:
        scale, shift = _denormalizing(shape[1], tensors[0].dtype, denormalize)
    else:
        scale, shift = _normalizing(shape[1], tensors[0].dtype, normalize)
    return OpenClip(tensors, shape, index, sides, scale, shift)


def open_pixels(
    clip: Tensor | CroppedClips, patch: Sequence[int], layout: str = DIMENSIONS
) -> tuple[list[Tensor], list[int], list[int]]:
    """Check a clip and its patch, for ops that list no tokens: `tensors`, `shape` and `patch` of `OpenClip`."""
    if isinstance(clip, CroppedClips):
        tensors, shape = [tensor.contiguous() for tensor in clip.tensors], list(clip.shape)
    else:
        clip = _as_bcthw(clip, layout)
        tensors, shape = [clip], list(clip.shape)
    if shape[1] < 1:
        raise ValueError(f"clip must have at least one channel, got (B, C, T, H, W) = {tuple(shape)}")
    return tensors, shape, _check_patch(patch, shape[2:])


def _as_bcthw(clip: Tensor, layout: str) -> Tensor:
    check_layout(layout)
    if not isinstance(clip, Tensor):
        raise TypeError(f"clip must be a tensor or CroppedClips, got {describe(clip)}")
    check_tensor(clip, "clip", PIXELS, tuple(layout))
    return clip.permute([layout.index(d) for d in DIMENSIONS])


def check_layout(layout: str) -> None:
    """A permutation of "BCTHW"."""
    if not isinstance(layout, str) or sorted(layout) != sorted(DIMENSIONS):
        error = ValueError if isinstance(layout, str) else TypeError
        raise error(f"layout must be a permutation of '{DIMENSIONS}' such as 'BTHWC', got {describe(layout)}")


def check_pixel_values(clip: Sequence[Tensor], shape: Sequence[int], index: Tensor, patch: Sequence[int]) -> None:
    """Values of the tensors that a pixel op gets: token numbers, and crop boxes in their frames."""
    check_index_values(index, "index", num_tokens(shape, patch))
    if is_cropped(clip):
        check_crops(clip, shape)


def _check_patch(patch: Sequence[int], size: Sequence[int]) -> list[int]:
    """(τ, p, p) as ints that divide (T, H, W)."""
    sides = list(check_counts(patch, "patch", "three positive sizes (frames, height, width)"))
    for name, length, side in zip("THW", size, sides, strict=True):
        if length % side or length == 0:
            raise ValueError(f"clip has {name}={length}, which patch {tuple(sides)} does not divide")
    return sides


def num_tokens(shape: Sequence[int], patch: Sequence[int]) -> int:
    """N = T/τ · H/p · W/p of a clip of `shape` (B, C, T, H, W)."""
    t, h, w = (size // side for size, side in zip(shape[2:], patch, strict=True))
    return t * h * w


def _normalizing(channels: int, dtype: torch.dtype, stats: ChannelStats | None) -> tuple[list[float], list[float]]:
    """(scale, shift) that bring uint8 pixels to [0, 1] and then normalise."""
    unit = 1 / 255 if dtype == torch.uint8 else 1.0
    if stats is None:
        return [unit] * channels, [0.0] * channels
    mean, std = _check_stats(channels, stats, "normalize")
    return [unit / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _denormalizing(channels: int, dtype: torch.dtype, stats: ChannelStats) -> tuple[list[float], list[float]]:
    """(scale, shift) that bring normalised pixels back to [0, 1]."""
    mean, std = _check_stats(channels, stats, "denormalize")
    if dtype == torch.uint8:
        raise ValueError("denormalize undoes a normalisation, which a uint8 clip cannot have; leave it out")
    return list(std), list(mean)


def _check_stats(channels: int, stats: ChannelStats, name: str) -> ChannelStats:
    if len(check_sequence(stats, name, "two lists (mean, std)")) != 2:
        raise ValueError(f"{name} must be two lists (mean, std), got {describe(stats)}")
    mean, std = (
        [check_number(value, f"{part} of {name}") for value in check_sequence(values, f"{part} of {name}", "numbers")]
        for part, values in zip(("mean", "std"), stats, strict=True)
    )
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"{name} needs a mean and a std for each of {channels} channels, got {len(mean)} and {len(std)}"
        )
    if min(std, default=1.0) <= 0:
        raise ValueError(f"{name} needs positive standard deviations, got {describe(std)}")
    return mean, std
