"""Recall at 1, how often the most similar row of the other side is a right one, over the pairs of all processes."""

import torch
from torch import Tensor

TILE = 1024  # rows whose similarities are in memory at a time


def recall_at_1(x: Tensor, y: Tensor, x_ids: Tensor, y_ids: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
    """The share of rows of x whose best row of y is one of their own.

        hit[i] = max over j with P[i, j] of x[i]·y[j]  >  max over the other j,    P[i, j] = [x_ids[i] = x_ids[j] or
        y_ids[i] = y_ids[j]]

    A tie is a miss. A row whose every candidate is its own is a hit.

    Args:
        x: (n, E) floating.
        y: (n, E) floating; row i belongs to row i of x.
        x_ids: (n,) int64, equal where x shows the same.
        y_ids: (n,) int64, equal where y says the same.
        rows: the rows of x that count.

    Returns:
        (r,) bool, for each of these rows whether it is a hit.
    """
    hits = []
    places = torch.arange(len(x), device=x.device)[rows]
    for some in places.split(TILE):
        similar = x[some].float() @ y.float().T
        own = (x_ids[some, None] == x_ids) | (y_ids[some, None] == y_ids)
        best = [similar.masked_fill(~mask, -torch.inf).amax(1) for mask in (own, ~own)]
        hits.append(best[0] > best[1])
    return torch.cat(hits) if hits else places.bool()


def recalls(
    video: Tensor, text: Tensor, video_id: Tensor, caption_id: Tensor, rank: int, world_size: int
) -> dict[str, Tensor]:
    """Recall at 1 in both directions, as an evaluation of the engine returns figures.

    Args:
        video: (n, E) features of all videos.
        text: (n, E) features of their captions.
        video_id: (n,) int64, equal for the same video.
        caption_id: (n,) int64, equal for equal captions.
        rank: of this process, which counts every `world_size`-th row.
        world_size: number of processes.

    Returns:
        For "text_to_video" and "video_to_text" the hits and the rows that this process counts, (2,) float64.
    """
    mine = slice(rank, None, world_size)
    hits = {
        "text_to_video": recall_at_1(text, video, caption_id, video_id, mine),
        "video_to_text": recall_at_1(video, text, video_id, caption_id, mine),
    }
    return {name: torch.stack([hit.sum(), torch.ones_like(hit).sum()]).double() for name, hit in hits.items()}
