"""Evaluation of a classifier: scores of every video, averaged over its views, and what they say.

File structure:
    EvaluateConfig   the options, in sections
    evaluate         run a classifier on all views of a list of videos
    Result           the scores, and the files of them
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._files import atomic_write, disk_errors
from .._optional import require
from .._text import printable, write_table
from ..data import MissingVideo, Mixture, number_classes, read_classes, read_mixture
from ..engine.parallel import make_accelerator
from ..interop import Classifier, read_classifier
from ..models.attention import activate_flash_attention
from .config import Config
from .evaluate_options import OF_CAPTIONERS, EvaluationOptions, ViewOptions, check_captioner_views
from .scores import TOP, ClassScores, Evaluation
from .start import last_checkpoint, with_classes
from .views import view_logits


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The options of an evaluation. The default of classifiers is the published one on Kinetics: 5 × 3 views."""

    views: ViewOptions = field(default_factory=ViewOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    def __post_init__(self) -> None:
        if self.evaluation.task == "retrieval" and self.views.classes:
            raise ValueError("task retrieval has captions, not classes: leave classes empty")
        if self.evaluation.task in OF_CAPTIONERS:
            check_captioner_views(self.views, self.evaluation.task)


@dataclass(frozen=True)
class Result:
    """The scores of all videos.

    Attributes:
        evaluation: scores, labels and figures.
        paths: name of each video, in the order of the list.
        missing: the videos that could not be read; they count nowhere.
        is_main_process: whether this process writes.
    """

    evaluation: Evaluation
    paths: Sequence[str]
    missing: Sequence[MissingVideo]
    is_main_process: bool

    def lines(self) -> list[str]:
        """What a user wants to know, as lines of text."""
        summary = self.evaluation.summary()
        lines = [
            f"top-1 {summary['top1']:.2%}, top-{TOP} {summary[f'top{TOP}']:.2%}, mean over classes "
            f"{summary['mean_class_accuracy']:.2%}, {summary['videos']} videos"
        ]
        return lines + missing_lines(self.missing)

    def write(self, folder: Path) -> None:
        """Write metrics.json, predictions.tsv, classes.tsv and, if videos are missing, missing.tsv.

        Args:
            folder: made if it does not exist.

        Raises:
            OSError: a file cannot be written.
        """
        write_summary(folder, self.evaluation.summary(), self.missing)
        write_table(folder / "predictions.tsv", self._predictions())
        write_table(folder / "classes.tsv", self._classes())

    def _predictions(self) -> list[tuple[object, ...]]:
        evaluation = self.evaluation
        top = evaluation.predictions(TOP)
        header = ("path", "label", "prediction", "score", *(f"top{place}" for place in range(1, top.shape[1] + 1)))
        rows: list[tuple[object, ...]] = [header]
        for video in range(len(self.paths)):
            if evaluation.read[video]:
                best = top[video]
                score = f"{evaluation.scores[video, best[0]]:.6f}"
                rows.append((self.paths[video], evaluation.labels[video], best[0], score, *best))
        return rows

    def _classes(self) -> list[tuple[object, ...]]:
        videos, right = self.evaluation.per_class()
        rows: list[tuple[object, ...]] = [("class", "name", "videos", "right", "accuracy")]
        for number, name in enumerate(self.evaluation.class_names):
            share = f"{right[number] / videos[number]:.4f}" if videos[number] else ""
            rows.append((number, name, videos[number], right[number], share))
        return rows


def missing_lines(missing: Sequence[MissingVideo]) -> list[str]:
    """What a user wants to know about videos that cannot be read; no line if there are none."""
    lines = [f"{len(missing)} videos are missing, because they cannot be read:"] if missing else []
    return lines + [f"  {printable(each.path)}: {each.reason}" for each in missing]


def write_summary(folder: Path, figures: Mapping[str, Any], missing: Sequence[MissingVideo]) -> None:
    """Write metrics.json and, if videos are missing, missing.tsv.

    Args:
        folder: made if it does not exist.
        figures: by name.
        missing: the videos that cannot be read.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder / "metrics.json"), atomic_write(folder / "metrics.json") as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "missing.tsv").unlink(missing_ok=True)
    if missing:
        write_table(folder / "missing.tsv", [(each.path, each.reason) for each in missing])


def none_read(count: int, missing: Sequence[MissingVideo]) -> str:
    """The message of an evaluation of `count` videos of which none can be read."""
    shown = "".join(f"\n  {printable(each.path)}: {each.reason}" for each in missing[:5])
    return f"none of the {count} videos can be read:{shown}"


@torch.no_grad()
def evaluate(config: EvaluateConfig) -> Result:
    """Evaluate a classifier: every frame is decoded and resized once for all views of its video.

        score of a video = mean over its views of softmax(logits)

    Args:
        config: for example `EvaluateConfig.from_options(data="val.csv", init="runs/mine")`.

    Returns:
        The scores of all videos, the same in every process for any number of processes.

    Raises:
        FileNotFoundError: the weights or a list do not exist.
        ValueError: the weights are of no classifier, classes or labels do not fit, views cannot be cut, no video can
            be read, or scores are not finite.
        ChildProcessError: a data-loading process died.

    References:
        `final_test` and `merge` in engine_for_finetuning.py of VideoMAE V2.
    """
    views, options = config.views, config.evaluation
    if not views.data:
        raise ValueError("data is empty: name a list of videos with labels, or a folder of class folders")
    if not options.init:
        raise ValueError("init is empty: name the weights of a classifier, or a run")
    accelerator = make_accelerator(options.precision)
    if options.attention == "sdpa":
        activate_flash_attention(accelerator.device)
    classifier = read_classifier(
        last_checkpoint(Path(options.init)), num_frames=views.num_frames or None, image_size=views.image_size or None
    )
    videos, classifier = _labelled(config, classifier)
    model = classifier.build(attention=options.attention, elementwise=options.elementwise)
    model.to(accelerator.device).eval()
    clip = classifier.config
    dataset = views.views(videos, clip.num_frames, clip.image_size)
    scores = ClassScores(len(videos), model.num_classes, options.average, accelerator.device)
    missing: list[MissingVideo] = []
    rank, world_size = accelerator.process_index, accelerator.num_processes
    bar = require("tqdm").tqdm(
        total=len(videos), desc="evaluate", unit="video", disable=not accelerator.is_main_process
    )
    with accelerator.autocast(), bar:
        for found in view_logits(model, dataset, options.batch_size, views.workers, rank, world_size):
            scores.add(found.index, found.logits)
            missing += found.missing
            bar.update(min(world_size * (len(found.index) + len(found.missing)), len(videos) - bar.n))
    merged, read = scores.merged(accelerator)
    everywhere = sorted(require("accelerate.utils").gather_object(missing), key=lambda each: each.index)
    if not read.any():
        raise ValueError(none_read(len(videos), everywhere))
    evaluation = Evaluation(merged, videos.labels, read, videos.class_names)
    paths = [videos[number].name for number in range(len(videos))]
    if wrong := [path for path, row in zip(paths, merged, strict=True) if not np.isfinite(row).all()]:
        raise ValueError(
            f"the scores of {len(wrong)} videos are NaN or infinite, first of {printable(wrong[0])}: the weights are "
            f"damaged, or too large for precision {options.precision}"
        )
    return Result(evaluation, paths, everywhere, accelerator.is_main_process)


def _labelled(config: EvaluateConfig, classifier: Classifier) -> tuple[Mixture, Classifier]:
    """The videos with their classes numbered as the classifier's, and the classifier with the head of these classes."""
    views, options = config.views, config.evaluation
    videos = read_mixture(views.data, views.root or None, views.list_format, labelled=True)
    names = read_classes(views.classes) if views.classes else ()
    classifier = with_classes(classifier, names, options.init_classes, options.init_merged)
    return number_classes(videos, classifier.class_names or (), allow_empty=True), classifier
