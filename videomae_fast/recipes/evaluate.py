"""Evaluation of a classifier: scores of every video, averaged over its views, and what they say.

File structure:
    EvaluateConfig   the options, in sections
    evaluate         run a classifier on all views of a list of videos
    Result           the scores, and the files of them
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .._files import atomic_write, disk_errors
from .._optional import require
from .._text import printable, write_table
from ..data import Mixture, number_classes, read_classes, read_mixture
from ..data.readers import DEFAULT_READER, MAX_DECODED_BYTES, READERS
from ..data.sources.classes import CLASSES_HELP
from ..data.sources.lists import DATA_HELP, EVERY_LIST, FORMATS, LIST_FORMAT_HELP, ROOT_HELP
from ..data.views import VIEW_SAMPLINGS, MissingVideo, ViewDataset
from ..engine.parallel import make_accelerator
from ..engine.precision import PRECISIONS
from ..interop import Classifier, read_classifier
from ..models.attention import BACKENDS, activate_flash_attention
from ..models.norms import IMPLEMENTATIONS
from .config import Config, Section, option
from .probe import PROBES
from .scores import AVERAGES, TOP, ClassScores, Evaluation
from .start import last_checkpoint, with_classes
from .views import view_logits


@dataclass(frozen=True)
class ViewOptions(Section):
    """The labelled videos, and the views of each."""

    data: str = option("", DATA_HELP)
    root: str = option("", ROOT_HELP + EVERY_LIST)
    list_format: str = option("auto", LIST_FORMAT_HELP + EVERY_LIST, choices=FORMATS)
    classes: str = option("", f"{CLASSES_HELP}; default: the names that --init has beside its weights")
    num_frames: int = option(0, "frames of a clip; 0: as the classifier was trained", least=0)
    image_size: int = option(0, "height and width of a view in pixels; 0: as the classifier was trained", least=0)
    short_side: int = option(0, "shorter side that frames are resized to, in pixels; 0: the image size", least=0)
    frame_stride: int = option(4, "frames of the video from one frame of a dense clip to the next", least=1)
    sampling: str = option(
        "dense",
        "frames of the segments; dense: published for Kinetics; uniform: published for Something-Something",
        choices=VIEW_SAMPLINGS,
    )
    segments: int = option(5, "clips of each video, spread over its time (published: 5 dense, 2 uniform)", least=1)
    crops: int = option(3, "crops of each clip, spread along the longer side of the frames", least=1)
    reader: str = option(DEFAULT_READER, "video reader", choices=READERS)
    max_decoded_bytes: int = option(
        MAX_DECODED_BYTES, "most memory of the decoded frames of a video's views (not with decord)", least=1
    )
    workers: int = option(8, "processes that decode videos; 0 decodes in the main process", least=0)

    def views(self, videos: Mixture, num_frames: int, size: tuple[int, int]) -> ViewDataset:
        """Make the views.

        Args:
            videos: with numbered classes.
            num_frames: frames of a clip.
            size: (height, width) of a view.

        Returns:
            The data set.

        Raises:
            ValueError: views of this size cannot be cut; see `ViewDataset`.
        """
        return ViewDataset(
            videos,
            num_frames=num_frames,
            frame_stride=self.frame_stride,
            size=size,
            short_side=self.short_side or max(size),
            segments=self.segments,
            crops=self.crops,
            sampling=self.sampling,
            reader=self.reader,
            max_decoded_bytes=self.max_decoded_bytes,
        )


@dataclass(frozen=True)
class EvaluationOptions(Section):
    """The classifier, how it is run, and where the results go."""

    init: str = option("", "the classifier: published or Hugging Face weights, or a run")
    init_classes: str = option(
        "", "classes of the head of --init, of which --classes are some: a file of names, or a JSON list of rows"
    )
    init_merged: str = option("", "JSON object {old name: new name} of classes that --init-classes has renamed")
    output: str = option("", "folder of the results: metrics.json, predictions.tsv, classes.tsv, confusion.png")
    average: str = option(
        "softmax", "what is averaged over the views of a video; softmax as published", choices=AVERAGES
    )
    batch_size: int = option(1, "videos of a forward pass; clips are this times segments times crops", least=1)
    precision: str = option("auto", "auto: bf16 on a GPU, fp32 on a CPU", choices=PRECISIONS)
    attention: str = option("sdpa", "attention backend", choices=BACKENDS)
    elementwise: str = option("triton", "what computes norms, residual additions and GELUs", choices=IMPLEMENTATIONS)
    probe: str = option(
        "", "judge features of --init, also of pre-training, instead of its head: knn or linear", choices=("", *PROBES)
    )
    train_data: str = option("", "labelled videos that --probe learns from, in one of the forms of --data")
    neighbours: int = option(20, "neighbours of --probe knn, at most the training videos", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.probe) != bool(self.train_data):
            raise ValueError(f"probe '{self.probe}' and train_data '{self.train_data}' go together")
        if self.probe and self.init_classes:
            raise ValueError("probe judges features, init_classes a head: give one of them")
        for name in ("average", "attention", "elementwise"):
            default = type(self).__dataclass_fields__[name].default
            if self.probe and getattr(self, name) != default:
                raise ValueError(f"probe '{self.probe}' does not use {name}: leave it at {default}")
        if self.init_merged and not self.init_classes:
            raise ValueError(f"init_merged '{self.init_merged}' goes with --init-classes, which is empty")


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The options of an evaluation. Defaults are the published one on Kinetics: 5 segments and 3 crops."""

    views: ViewOptions = field(default_factory=ViewOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)


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
        if self.missing:
            lines.append(f"{len(self.missing)} videos are missing, because they cannot be read:")
            lines += [f"  {printable(missing.path)}: {missing.reason}" for missing in self.missing]
        return lines

    def write(self, folder: Path) -> None:
        """Write metrics.json, predictions.tsv, classes.tsv and, if videos are missing, missing.tsv.

        Args:
            folder: made if it does not exist.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with disk_errors(folder / "metrics.json"), atomic_write(folder / "metrics.json") as partial:
            partial.write_text(json.dumps(self.evaluation.summary(), indent=2) + "\n", encoding="utf-8")
        write_table(folder / "predictions.tsv", self._predictions())
        write_table(folder / "classes.tsv", self._classes())
        (folder / "missing.tsv").unlink(missing_ok=True)
        if self.missing:
            write_table(folder / "missing.tsv", [(missing.path, missing.reason) for missing in self.missing])

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
        shown = "".join(f"\n  {printable(each.path)}: {each.reason}" for each in everywhere[:5])
        raise ValueError(f"none of the {len(videos)} videos can be read:{shown}")
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
