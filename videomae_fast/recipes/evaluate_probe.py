"""Evaluation without a head: the features of labelled videos, judged by what training videos near them are."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .._optional import require
from .._text import printable
from ..data import Mixture, number_classes, read_classes
from ..data.views import MissingVideo
from ..engine.log import say
from ..engine.parallel import make_accelerator
from ..interop import FeatureModel, read_feature_model
from .evaluate import EvaluateConfig, EvaluationOptions, Result
from .probe import knn, linear_probe
from .scores import Evaluation
from .sources import read_source
from .start import last_checkpoint
from .views import FeaturesAsForward, view_logits


@torch.no_grad()
def evaluate_probe(config: EvaluateConfig) -> Result:
    """Evaluate the features of a model, of pre-training or a classifier, by kNN or a linear probe.

    The feature of a video is the mean of those of its views. The training videos alone decide everything that is
    fitted or chosen; their features are computed once.

    Args:
        config: for example `EvaluateConfig.from_options(data="val.csv", train_data="train.csv", init="runs/mine",
            probe="knn", segments=1, crops=1)`.

    Returns:
        The scores of all videos of `data`, the same in every process.

    Raises:
        FileNotFoundError: the weights or a list do not exist.
        ValueError: options are missing, classes or labels do not fit, views cannot be cut, or no video of a list can
            be read.
        ChildProcessError: a data-loading process died.
    """
    views, options = config.views, config.evaluation
    for name, value in (("data", views.data), ("init", options.init)):
        if not value:
            raise ValueError(f"{name} is empty")
    accelerator = make_accelerator(options.precision)
    model = read_feature_model(
        last_checkpoint(Path(options.init)), num_frames=views.num_frames or None, image_size=views.image_size or None
    ).to(accelerator.device)
    sources = (views.data, options.train_data)
    train = number_classes(
        read_source(options.train_data, sources, views.root, views.list_format, labelled=True),
        read_classes(views.classes) if views.classes else (),
        allow_empty=True,
    )
    test = read_source(views.data, sources, views.root, views.list_format, labelled=True)
    test = number_classes(test, train.class_names, allow_empty=True)
    features = [_video_features(model, videos, config, accelerator) for videos in (train, test)]
    for name, videos, found in zip(("train_data", "data"), (train, test), features, strict=True):
        if not found.read.any():
            unread = printable(found.missing[0].path)
            raise ValueError(f"{name}: none of the {len(videos)} videos can be read, such as {unread}")
    if len(np.unique(train.labels[features[0].read])) < 2:
        raise ValueError("train_data: the videos that can be read are all of one class")
    for each in features[0].missing:
        say(f"unreadable training video left out: {printable(each.path)}: {each.reason}")
    scores = np.zeros((len(test), len(train.class_names)), dtype=np.float32)
    scores[features[1].read] = _scores(features[0], train, features[1], options)
    evaluation = Evaluation(scores, test.labels, features[1].read, test.class_names)
    paths = [test[number].name for number in range(len(test))]
    return Result(evaluation, paths, features[1].missing, accelerator.is_main_process)


class _VideoFeatures(NamedTuple):
    """(n, D) float32 features on the host, (n,) bool which were read, and the videos that cannot be read."""

    values: np.ndarray
    read: np.ndarray
    missing: list[MissingVideo]


def _scores(known: _VideoFeatures, train: Mixture, asked: _VideoFeatures, options: EvaluationOptions) -> np.ndarray:
    rows, labels, classes = known.values[known.read], train.labels[known.read], len(train.class_names)
    if options.probe == "knn":
        return knn(rows, labels, asked.values[asked.read], classes, k=min(options.neighbours, len(rows)))
    with torch.enable_grad():  # it is fitted
        return linear_probe(rows, labels, asked.values[asked.read], classes).scores


def _video_features(model: FeatureModel, videos: Mixture, config: EvaluateConfig, accelerator: Any) -> _VideoFeatures:
    dataset = config.views.views(videos, model.config.num_frames, model.config.image_size)
    values = torch.zeros(len(dataset), model.feature_dim, device=accelerator.device)
    read = torch.zeros(len(dataset), device=accelerator.device)
    missing: list[MissingVideo] = []
    rank, world_size = accelerator.process_index, accelerator.num_processes
    batch_size, workers = config.evaluation.batch_size, config.views.workers
    with accelerator.autocast():
        for found in view_logits(FeaturesAsForward(model), dataset, batch_size, workers, rank, world_size):
            values.index_copy_(0, found.index, found.logits.float().mean(1))
            read.index_fill_(0, found.index, 1.0)
            missing += found.missing
    values, read = (accelerator.reduce(each, reduction="sum").cpu() for each in (values, read))
    everywhere = require("accelerate.utils").gather_object(missing)
    return _VideoFeatures(values.numpy(), read.numpy() > 0, sorted(everywhere, key=lambda each: each.index))
