"""What evaluations of a captioner share: the run that options name, and answers, divided among processes."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .._files import atomic_write, disk_errors
from .._optional import require
from ..data import CaptionedEntry, CaptionedVideos, MissingVideo, Mixture, ViewDataset, split_kinds
from ..models.encoder import Clip
from .describe import Describer
from .evaluate import EvaluateConfig, none_read
from .evaluate_options import DefaultViews
from .views import view_batches

T = TypeVar("T")


class Answers(NamedTuple, Generic[T]):
    """What was found about each video.

    Attributes:
        found: by the number of the video, in order; only of videos that can be read.
        missing: the videos that cannot be read, in order.
    """

    found: dict[int, T]
    missing: list[MissingVideo]


def captioner_of(config: EvaluateConfig, wanted: str) -> Describer:
    """The captioner that an evaluation names, on the device of its process.

    Args:
        config: the evaluation.
        wanted: what `data` must name.

    Returns:
        The captioner.

    Raises:
        FileNotFoundError: as `Describer`.
        ValueError: `data` or `init` is empty; or as `Describer`.
        ImportError: as `Describer`.
    """
    options = config.evaluation
    for name, value, needed in (("data", config.views.data, wanted), ("init", options.init, "run of caption")):
        if not value:
            raise ValueError(f"{name} is empty: name a {needed}")
    return Describer(options.init, language_model=options.language_model, precision=options.precision)


def answers_about(
    describer: Describer,
    videos: Mixture,
    config: EvaluateConfig,
    answer: Callable[[Clip, Sequence[int], bool], Sequence[T]],
) -> Answers[T]:
    """Call a function on one clip of each video; each process does a part, and all get all.

    Args:
        describer: the captioner, which tells the frames of a clip.
        videos: videos and images with captions.
        config: the evaluation.
        answer: takes clips on the device of the model, the numbers of their videos, and whether they are images;
            returns something of each, which processes send each other.

    Returns:
        What was found, the same in every process.

    Raises:
        ValueError: views cannot be cut, or no video can be read.
        ChildProcessError: a data-loading process died.
    """
    accelerator, options = describer.accelerator, config.evaluation
    rank, world_size = accelerator.process_index, accelerator.num_processes
    found: dict[int, T] = {}
    missing: list[MissingVideo] = []
    bar = require("tqdm").tqdm(total=len(videos), desc=options.task, unit="video", disable=rank > 0)
    with bar:
        for image, numbers, dataset in _views(describer, videos, config):
            for batch in view_batches(dataset, options.batch_size, config.views.workers, rank, world_size):
                missing += [replace(each, index=int(numbers[each.index])) for each in batch.missing]
                if batch.clips is not None:
                    own = numbers[batch.index.numpy()].tolist()
                    clips = batch.clips.to(accelerator.device, non_blocking=True)
                    found.update(zip(own, answer(clips, own, image), strict=True))
                bar.update(min(world_size * (len(batch.index) + len(batch.missing)), len(videos) - bar.n))
    parts = require("accelerate.utils").gather_object([(found, missing)])
    everything = {number: item for part, _ in parts for number, item in part.items()}
    lacking = sorted((each for _, part in parts for each in part), key=lambda each: each.index)
    if not everything:
        raise ValueError(none_read(len(videos), lacking))
    return Answers(dict(sorted(everything.items())), lacking)


def _views(
    describer: Describer, videos: Mixture, config: EvaluateConfig
) -> Iterable[tuple[bool, np.ndarray, ViewDataset]]:
    """Of videos and of images: the numbers in the mixture, and one clip of each, of the frames that training shows."""
    data, options = describer.config.data, config.views
    sampling = "dense" if data.sampling == "strided" else data.sampling
    default = DefaultViews(sampling, data.frame_stride, segments=1, crops=1, fps=data.fps)
    size = (data.image_size, data.image_size)
    annotations = [source.annotations for source in videos.sources]
    is_image = np.concatenate([each.is_image for each in annotations if isinstance(each, CaptionedVideos)])
    for image, mixture in zip((False, True), split_kinds(videos), strict=True):
        if mixture is not None:
            if image:
                describer.model.vision_encoder.check_images()
            given = replace(options, sampling="uniform") if image else options
            dataset = given.views(mixture, 1 if image else data.num_frames, size, default)
            yield image, np.flatnonzero(is_image == image), dataset


def place_of(entry: CaptionedEntry) -> dict[str, Any]:
    """Where a video is, for a line of predictions: path, start and end in seconds; the end is None for the video's."""
    return {"path": entry.name, "start": entry.start, "end": None if entry.end == math.inf else entry.end}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines; the file appears at the end, whole.

    Args:
        path: of the file.
        rows: its lines.

    Raises:
        OSError: the file cannot be written.
    """
    with disk_errors(path), atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
