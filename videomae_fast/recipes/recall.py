"""Recall at 1 of pairs: how often the most similar row of the other side is a right one, over all processes."""

import torch
from torch import Tensor

from .retrieval import rank_candidates


def recalls(
    video: Tensor, text: Tensor, video_id: Tensor, caption_id: Tensor, rank: int, world_size: int
) -> dict[str, Tensor]:
    """Recall at 1 in both directions, as an evaluation of the engine returns figures.

    A caption or a video of several pairs is there once, and all that it is paired with is right: see `distinct_rows`
    and `rank_candidates`.

    Args:
        video: (n, E) features of all videos.
        text: (n, E) features of their captions.
        video_id: (n,) int64, equal for the same video.
        caption_id: (n,) int64, equal for equal captions.
        rank: of this process, which counts every `world_size`-th row.
        world_size: number of processes.

    Returns:
        For "text_to_video" and "video_to_text" the hits and the rows that this process counts, (2,) float64.

    Raises:
        ValueError: a feature is NaN or infinite.
    """
    mine = slice(rank, None, world_size)
    text, video, right = distinct_rows(text, video, caption_id, video_id)
    found = {
        "text_to_video": rank_candidates(text, video, right, mine).rank,
        "video_to_text": rank_candidates(video, text, right.flip(1), mine).rank,
    }
    return {name: torch.stack([(ranks == 1).sum(), (ranks > 0).sum()]).double() for name, ranks in found.items()}


def distinct_rows(x: Tensor, y: Tensor, x_ids: Tensor, y_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries and candidates of pairs: each that several pairs have is there once.

    Args:
        x: (n, E) features.
        y: (n, E) features; row i is of the pair of row i of `x`.
        x_ids: (n,) int64, equal where `x` is of the same.
        y_ids: (n,) int64, equal where `y` is of the same.

    Returns:
        The first row of each id, of `x` and of `y`, in the order of ids, and `right` as `rank_candidates` takes it.
    """
    rows, numbers = zip(*(_first_of(ids) for ids in (x_ids, y_ids)), strict=True)
    return x[rows[0]], y[rows[1]], torch.stack(numbers, 1).unique(dim=0)


def _first_of(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the first of each id, ids in ascending order; and for each place the number of its id."""
    known, numbers = ids.unique(return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    return places.new_full((len(known),), len(ids)).scatter_reduce(0, numbers, places, "amin"), numbers
