"""What is left of clips without time, and how often captions are found then: controls of captions that need time.

File structure:
    Shown                  what a tower sees of clips
    ways_of_seeing         clips, and what is left of them without time
    accuracies             how often a clip finds its caption then
    clips_of, features_of  pixels of retrieved clips, and what a tower makes of them
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.augment import normalized_clips
from ..data.sources.operation_captions import CAPTIONS
from ..models.config import ClipConfig
from ..models.dual_encoder import VideoTextModel
from .evaluate_retrieval import RetrievalResult
from .two_towers import TwoTowers, encode_texts


class Shown(NamedTuple):
    """What a tower sees of clips.

    Attributes:
        clips: (B, C, T, H, W).
        visible: (B, K) int64 tokens; None: all.
    """

    clips: Tensor
    visible: Tensor | None = None


def still(clips: Tensor, frame: Tensor) -> Shown:
    """One frame of each clip, as a clip that stands still: nothing says which frame it is.

    Args:
        clips: (B, C, T, H, W).
        frame: (B,) int64 numbers.

    Returns:
        The frame in all places, and all tokens.
    """
    chosen = clips[torch.arange(len(clips)), :, frame]
    return Shown(chosen[:, :, None].expand_as(clips))


def in_its_place(clips: Tensor, frame: Tensor, grid: tuple[int, int, int]) -> Shown:
    """One frame of each clip, and its place in the clip.

    Args:
        clips: (B, C, T, H, W).
        frame: (B,) int64 numbers.
        grid: (T', H', W') tokens of a clip.

    Returns:
        The frame in all places, of which the tokens of its own time are visible.
    """
    per_time = grid[1] * grid[2]
    time = frame * grid[0] // clips.shape[2]
    return Shown(still(clips, frame).clips, time[:, None] * per_time + torch.arange(per_time))


def reordered(clips: Tensor, orders: Tensor) -> Shown:
    """The frames of each clip in another order.

    Args:
        clips: (B, C, T, H, W).
        orders: (B, T) int64 numbers of frames.

    Returns:
        The clips, and all tokens.
    """
    return Shown(clips[torch.arange(len(clips))[:, None], :, orders].transpose(1, 2))


def ways_of_seeing(clips: Tensor, grid: tuple[int, int, int], seed: int) -> Iterator[tuple[str, Shown]]:
    """Clips, and what is left of them without time.

    Args:
        clips: (B, C, T, H, W).
        grid: (T', H', W') tokens of a clip.
        seed: of random frames and orders.

    Yields:
        The name of a way of seeing, and what is seen.
    """
    count, frames = len(clips), clips.shape[2]
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(count, frames, generator=generator).argsort(1)
    yield "all frames", Shown(clips)
    yield "all frames in random order", reordered(clips, orders)
    places = {"first": torch.zeros(count), "last": torch.full((count,), frames - 1), "random": orders[:, 0]}
    for name, place in places.items():
        yield f"{name} frame, standing still", still(clips, place.long())
        yield f"{name} frame, in its place", in_its_place(clips, place.long(), grid)


@torch.no_grad()
def accuracies(
    towers: TwoTowers, result: RetrievalResult, accelerator: Any, seed: int, batch_size: int = 64
) -> dict[str, tuple[float, float]]:
    """How often the caption most similar to a clip is one of its own, for each of `ways_of_seeing`.

    A clip that stands still is rightly said to stand still, so its accuracy is that of always saying so, whatever else
    its frame tells. Hence the second figure, of clips and captions of the operations that move.

    Args:
        towers: of the run; they are moved to the device.
        result: gives the clips and their captions.
        accelerator: `accelerate.Accelerator` of the processes.
        seed: of random frames and orders.
        batch_size: clips of a forward pass.

    Returns:
        By the name of the way: the share of all clips, and that of the clips and captions that are not of "freeze".

    Raises:
        ValueError: a clip cannot be read any more.
    """
    model, config = towers.model.to(accelerator.device), towers.model.vision_encoder.config
    clips = clips_of(result, config)
    text = encode_texts(towers, result.captions, accelerator).cpu()
    right = torch.zeros(len(clips), len(result.captions), dtype=torch.bool)
    right[result.right[:, 1], result.right[:, 0]] = True
    moves = torch.tensor([caption not in CAPTIONS["freeze"] for caption in result.captions])
    figures = {}
    for name, shown in ways_of_seeing(clips, config.grid, seed):
        similarity = features_of(model, shown, batch_size) @ text.T
        moving = right[:, moves].any(1)
        figures[name] = accuracy(similarity, right), accuracy(similarity[moving][:, moves], right[moving][:, moves])
    return figures


def accuracy(similarity: Tensor, right: Tensor) -> float:
    """The share of clips whose most similar caption is right; ties are decided for the first caption.

    Args:
        similarity: (n, m) floating, of clips and captions.
        right: (n, m) bool.

    Returns:
        The share.
    """
    return right.gather(1, similarity.argmax(1, keepdim=True)).double().mean().item()


def clips_of(result: RetrievalResult, config: ClipConfig) -> Tensor:
    """Read the clips of a retrieval again.

    Args:
        result: of the retrieval, with one view of each video.
        config: of the video tower.

    Returns:
        (n, C, T, H, W) float32, normalised.

    Raises:
        ValueError: a clip cannot be read any more.
    """
    found = [dataset[index].clips for dataset, index in result.views]
    read = [each for each in found if each is not None]
    if len(read) < len(found):
        raise ValueError(f"{len(found) - len(read)} of {len(found)} clips cannot be read any more")
    return torch.cat([normalized_clips(each, mean=config.pixel_mean, std=config.pixel_std) for each in read])


@torch.no_grad()
def features_of(model: VideoTextModel, shown: Shown, batch_size: int) -> Tensor:
    """The features of what is seen.

    Args:
        model: the dual encoder.
        shown: n clips, on the host.
        batch_size: clips of a forward pass.

    Returns:
        (n, E) float32 of length 1, on the host.
    """
    device, found = next(model.parameters()).device, []
    for some in torch.arange(len(shown.clips)).split(batch_size):
        visible = None if shown.visible is None else shown.visible[some].to(device)
        found.append(model.project_video(model.encode_video(shown.clips[some].to(device), visible).pooled).cpu())
    return torch.cat(found)
