"""Retrieval by two towers: how well captions find their videos, and videos their captions.

File structure:
    evaluate_retrieval   run both towers on a list of captioned videos and images
    RetrievalResult      what each caption and each video finds, and the files of it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._text import write_table
from ..data import CaptionedEntry, MissingVideo, Mixture, ViewDataset, merge_captions, read_mixture, split_kinds
from .evaluate import EvaluateConfig, missing_lines, none_read, write_summary
from .evaluate_options import ViewOptions
from .evaluate_towers import default_views, features_of_videos, towers_of
from .retrieval import Ranking, rank_candidates, retrieval_figures
from .two_towers import TwoTowers, encode_texts

LISTED = 5  # the most similar candidates that are written of each query


@dataclass(frozen=True)
class RetrievalResult:
    """What n videos and m captions find. Videos that cannot be read are in neither, nor are captions of these alone.

    Attributes:
        videos: the videos, parts of videos and images, each once, with all its captions.
        captions: their captions, each once.
        right: (p, 2) int64 pairs of a caption and a video that has it.
        text_to_video: for each caption the rank of its best video, and the most similar videos.
        video_to_text: for each video the rank of its best caption, and the most similar captions.
        missing: the videos that cannot be read.
        views: of each video its views, and its number in them, for pictures.
        is_main_process: whether this process writes.
    """

    videos: Sequence[CaptionedEntry]
    captions: Sequence[str]
    right: np.ndarray
    text_to_video: Ranking
    video_to_text: Ranking
    missing: Sequence[MissingVideo]
    views: Sequence[tuple[ViewDataset, int]]
    is_main_process: bool

    def figures(self) -> dict[str, float]:
        """Recalls and median ranks of both directions, and what they are of."""
        both = (("text_to_video", self.text_to_video), ("video_to_text", self.video_to_text))
        found: dict[str, float] = {
            f"{direction}_{name}": value
            for direction, ranking in both
            for name, value in retrieval_figures(ranking.rank).items()
        }
        return found | {"videos": len(self.videos), "captions": len(self.captions), "missing": len(self.missing)}

    def lines(self) -> list[str]:
        """What a user wants to know, as lines of text."""
        found = self.figures()
        lines = [
            f"{direction.replace('_', ' ')}: R@1 {found[f'{direction}_r1']:.2%}, R@5 {found[f'{direction}_r5']:.2%}, "
            f"R@10 {found[f'{direction}_r10']:.2%}, median rank {found[f'{direction}_mdr']:g} of {count}"
            for direction, count in (("text_to_video", len(self.videos)), ("video_to_text", len(self.captions)))
        ]
        return lines + missing_lines(self.missing)

    def write(self, folder: Path) -> None:
        """Write metrics.json, text_to_video.tsv, video_to_text.tsv and, if videos are missing, missing.tsv.

        Args:
            folder: made if it does not exist.

        Raises:
            OSError: a file cannot be written.
        """
        write_summary(folder, self.figures(), self.missing)
        names = [name_of(entry) for entry in self.videos]
        write_table(folder / "text_to_video.tsv", _table("caption", self.captions, self.text_to_video, names))
        write_table(folder / "video_to_text.tsv", _table("video", names, self.video_to_text, self.captions))


def name_of(entry: CaptionedEntry) -> str:
    """The name of a video, and the seconds of a part of it."""
    if entry.start == 0 and entry.end == math.inf:
        return entry.name
    return f"{entry.name} from {entry.start:g} s to {'its end' if entry.end == math.inf else f'{entry.end:g} s'}"


def _table(kind: str, queries: Sequence[str], ranking: Ranking, candidates: Sequence[str]) -> list[Sequence[object]]:
    places = range(1, ranking.best.shape[1] + 1)
    rows: list[Sequence[object]] = [(kind, "rank", *(cell for k in places for cell in (f"top{k}", f"similarity{k}")))]
    for query, rank, best, similarity in zip(queries, *(each.tolist() for each in ranking), strict=True):
        found = zip(best, similarity, strict=True)
        rows.append((query, rank, *(cell for k, s in found for cell in (candidates[k], f"{s:.6f}"))))
    return rows


@torch.no_grad()
def evaluate_retrieval(config: EvaluateConfig) -> RetrievalResult:
    """Evaluate two towers on captioned videos and images, without training on them.

        similarity = v·t,    v = normalise(mean over the views of a video's features)

    All entries of one part of one video are one video with several captions, of which any counts; a caption that
    several videos have is one caption, for which any of them counts. Ranks are exact: see `rank_candidates`.

    Args:
        config: for example `EvaluateConfig.from_options(task="retrieval", data="val.tsv", init="runs/pairs")`.

    Returns:
        What captions and videos find, the same in every process.

    Raises:
        FileNotFoundError: the weights or a list do not exist.
        ValueError: `init` is no run of `contrast`, captions cannot be read, views cannot be cut, fewer than two videos
            can be read, or features are not finite.
        ImportError: transformers is missing.
        ChildProcessError: a data-loading process died.
    """
    views = config.views
    towers, accelerator = towers_of(config)
    videos = merge_captions(read_mixture(views.data, views.root or None, views.list_format, captioned=True))
    kinds = [mixture for mixture in split_kinds(videos) if mixture is not None]
    if split_kinds(videos)[1] is not None:
        towers.model.vision_encoder.check_images()
    datasets = [_views(views, mixture, towers) for mixture in kinds]
    with accelerator.autocast():
        found = [features_of_videos(towers, dataset, config, accelerator) for dataset in datasets]
        missing = [each for features in found for each in features.missing]
        kept = [(k, int(index)) for k, features in enumerate(found) for index in np.flatnonzero(features.read)]
        if not kept:
            raise ValueError(none_read(len(videos), missing))
        if len(kept) == 1:
            raise ValueError(f"data must have two videos or more that can be read, got one of {len(videos)}")
        entries = [kinds[k].captioned(index) for k, index in kept]
        captions = list(dict.fromkeys(caption for entry in entries for caption in entry.captions))
        text = encode_texts(towers, captions, accelerator)
    video = torch.cat([torch.from_numpy(features.values[features.read]) for features in found]).to(text.device)
    number = {caption: k for k, caption in enumerate(captions)}
    right = torch.tensor([(number[caption], v) for v, entry in enumerate(entries) for caption in entry.captions])
    return RetrievalResult(
        entries,
        captions,
        right.numpy(),
        _ranked(text, video, right, accelerator),
        _ranked(video, text, right.flip(1), accelerator),
        missing,
        [(datasets[k], index) for k, index in kept],
        accelerator.is_main_process,
    )


def _views(options: ViewOptions, videos: Mixture, towers: TwoTowers) -> ViewDataset:
    """The views of videos, or of images, which are clips of one frame."""
    frames = towers.config.data.num_frames
    if videos.captioned(0).is_image:
        options, frames = replace(options, sampling="uniform", segments=1), 1
    return options.views(videos, frames, towers.model.vision_encoder.config.image_size, default_views(towers))


def _ranked(x: Tensor, y: Tensor, right: Tensor, accelerator: Any) -> Ranking:
    """The ranking of all queries, on the host: each process ranks some, and all get all."""
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    found = rank_candidates(x, y, right, own, LISTED)
    whole = [each.new_zeros((len(x), *each.shape[1:])) for each in found]
    for all_rows, rows in zip(whole, found, strict=True):
        all_rows[own] = rows
    return Ranking(*(accelerator.reduce(each, reduction="sum").cpu() for each in whole))
