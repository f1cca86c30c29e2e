"""Evaluation without a head: the features of labelled videos, judged by what training videos near them are."""

from pathlib import Path

import numpy as np
import torch

from .._text import printable
from ..data import Mixture, number_classes, read_classes
from ..engine.log import say
from ..engine.parallel import make_accelerator
from .evaluate import EvaluateConfig, Result
from .evaluate_options import EvaluationOptions
from .probe import knn, linear_probe
from .scores import Evaluation
from .sources import read_source
from .start import last_checkpoint
from .two_towers import TowerFeatures, read_video_model
from .views import FeaturesAsForward, VideoFeatures, video_features


@torch.no_grad()
def evaluate_probe(config: EvaluateConfig) -> Result:
    """Evaluate the features of a model, of pre-training, a classifier or two towers, by kNN or a linear probe.

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
    sizes = {"num_frames": views.num_frames, "image_size": views.image_size}
    source = last_checkpoint(Path(options.init))
    model = read_video_model(source, **sizes, text_model=options.text_model).to(accelerator.device)
    sources = (views.data, options.train_data)
    train = number_classes(
        read_source(options.train_data, sources, views.root, views.list_format, labelled=True),
        read_classes(views.classes) if views.classes else (),
        allow_empty=True,
    )
    test = read_source(views.data, sources, views.root, views.list_format, labelled=True)
    test = number_classes(test, train.class_names, allow_empty=True)
    clip, (batch_size, workers) = model.config, (options.batch_size, views.workers)
    datasets = [views.views(videos, clip.num_frames, clip.image_size) for videos in (train, test)]
    encoder = model if isinstance(model, TowerFeatures) else FeaturesAsForward(model)
    with accelerator.autocast():
        features = [
            video_features(encoder, dataset, model.feature_dim, batch_size, workers, accelerator)
            for dataset in datasets
        ]
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


def _scores(known: VideoFeatures, train: Mixture, asked: VideoFeatures, options: EvaluationOptions) -> np.ndarray:
    rows, labels, classes = known.values[known.read], train.labels[known.read], len(train.class_names)
    if options.probe == "knn":
        return knn(rows, labels, asked.values[asked.read], classes, k=min(options.neighbours, len(rows)))
    with torch.enable_grad():  # it is fitted
        return linear_probe(rows, labels, asked.values[asked.read], classes).scores
