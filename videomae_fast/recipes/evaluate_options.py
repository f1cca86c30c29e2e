"""Sections of options for evaluations: the views of videos, and what is evaluated how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..data import Mixture, ViewDataset
from ..data.readers import DEFAULT_READER, MAX_DECODED_BYTES, READERS
from ..data.sources.captions import CAPTIONS_HELP
from ..data.sources.choices import CHOICES_HELP
from ..data.sources.classes import CLASSES_HELP
from ..data.sources.lists import DATA_HELP, EVERY_LIST, FORMATS, LIST_FORMAT_HELP, ROOT_HELP
from ..data.views import VIEW_SAMPLINGS
from ..engine.precision import PRECISIONS
from ..models.attention import BACKENDS
from ..models.norms import IMPLEMENTATIONS
from .config import Section, option
from .probe import PROBES
from .scores import AVERAGES

OF_CAPTIONERS = ("caption", "choice")
TASKS = ("classify", "retrieval", "zeroshot", *OF_CAPTIONERS)
_OF_CLASSIFIERS = ("init_classes", "init_merged", "average", "probe", "train_data", "neighbours")
_NOT_OF_CAPTIONERS = ("text_model", "templates", "attention", "elementwise")  # these are as the run was
_VIEWS_OF_OTHERS = ("list_format", "classes", "num_frames", "image_size", "segments", "crops")


class DefaultViews(NamedTuple):
    """The views that options leave open; by themselves the published ones on Kinetics."""

    sampling: str = "dense"
    frame_stride: int = 4
    segments: int = 5
    crops: int = 3
    fps: float = 1.0


@dataclass(frozen=True)
class ViewOptions(Section):
    """The videos, with labels or captions, and the views of each."""

    data: str = option(
        "", f"{DATA_HELP}; for --task retrieval and caption a {CAPTIONS_HELP}; for choice a {CHOICES_HELP}"
    )
    root: str = option("", ROOT_HELP + EVERY_LIST)
    list_format: str = option("auto", LIST_FORMAT_HELP + EVERY_LIST, choices=FORMATS)
    classes: str = option("", f"{CLASSES_HELP}; default: the names that a classifier has beside its weights")
    num_frames: int = option(0, "frames of a clip; 0: as the model was trained", least=0)
    image_size: int = option(0, "height and width of a view in pixels; 0: as the model was trained", least=0)
    short_side: int = option(0, "shorter side that frames are resized to, in pixels; 0: the image size", least=0)
    frame_stride: int = option(
        0,
        "frames of the video from one frame of a dense clip to the next; 0: 4, or as two towers were trained",
        least=0,
    )
    sampling: str = option(
        "auto",
        "frames of the segments; dense: published for Kinetics; uniform: published for Something-Something; fps: --fps "
        "of a second; auto: dense, or as two towers were trained",
        choices=("auto", *VIEW_SAMPLINGS),
    )
    fps: float = option(
        0.0, "frames of a clip per second of the video, for fps; 0: 1, or as two towers were trained", least=0
    )
    segments: int = option(
        0, "clips of each video, spread over its time; 0: 5 (published: 5 dense, 2 uniform), of two towers 1", least=0
    )
    crops: int = option(
        0, "crops of each clip, spread along the longer side of the frames; 0: 3, of two towers 1", least=0
    )
    reader: str = option(DEFAULT_READER, "video reader", choices=READERS)
    max_decoded_bytes: int = option(
        MAX_DECODED_BYTES, "most memory of the decoded frames of a video's views (not with decord)", least=1
    )
    workers: int = option(8, "processes that decode videos; 0 decodes in the main process", least=0)

    def views(
        self, videos: Mixture, num_frames: int, size: tuple[int, int], default: DefaultViews | None = None
    ) -> ViewDataset:
        """Make the views.

        Args:
            videos: with numbered classes, or with captions.
            num_frames: frames of a clip.
            size: (height, width) of a view.
            default: what the options leave open; None: the published views on Kinetics.

        Returns:
            The data set.

        Raises:
            ValueError: views of this size cannot be cut; see `ViewDataset`.
        """
        default = default or DefaultViews()
        return ViewDataset(
            videos,
            num_frames=num_frames,
            frame_stride=self.frame_stride or default.frame_stride,
            size=size,
            short_side=self.short_side or max(size),
            segments=self.segments or default.segments,
            crops=self.crops or default.crops,
            sampling=default.sampling if self.sampling == "auto" else self.sampling,
            fps=self.fps or default.fps,
            reader=self.reader,
            max_decoded_bytes=self.max_decoded_bytes,
        )


@dataclass(frozen=True)
class EvaluationOptions(Section):
    """The task, the model, how it is run, and where the results go."""

    task: str = option(
        "classify",
        "classify: by the head of --init, or a probe of it; retrieval: of captions and their videos by two towers, a "
        "run of contrast; zeroshot: of classes, by their names, likewise; caption: captions by a run of caption; "
        "choice: multiple-choice questions, likewise",
        choices=TASKS,
    )
    init: str = option(
        "", "the classifier: published or Hugging Face weights, or a run; or a run of contrast or caption"
    )
    templates: str = option(
        "",
        "file of prompts for --task zeroshot, one a line, with {} where the class goes; default: five short ones",
    )
    text_model: str = option(
        "", "folder of the text model of a run of contrast, if it is not where it was when the run began"
    )
    language_model: str = option(
        "", "folder of the language model of a run of caption, if it is not where it was when the run began"
    )
    max_new_tokens: int = option(64, "most tokens of an answer, for --task caption and choice", least=1)
    init_classes: str = option(
        "", "classes of the head of --init, of which --classes are some: a file of names, or a JSON list of rows"
    )
    init_merged: str = option("", "JSON object {old name: new name} of classes that --init-classes has renamed")
    output: str = option("", "folder of the results: metrics.json, tables and a picture")
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
        if self.task in OF_CAPTIONERS:
            _check_unused(self, f"task {self.task}", (*_OF_CLASSIFIERS, *_NOT_OF_CAPTIONERS))
        else:
            _check_unused(self, f"task {self.task}", ("language_model", "max_new_tokens"))
        if self.task != "classify":
            _check_unused(self, f"task {self.task}", _OF_CLASSIFIERS)
        elif self.text_model and not self.probe:
            raise ValueError(f"text_model '{self.text_model}' is for a task of two towers, got task classify")
        if self.templates and self.task != "zeroshot":
            raise ValueError(f"templates '{self.templates}' are for task zeroshot, got task {self.task}")
        if bool(self.probe) != bool(self.train_data):
            raise ValueError(f"probe '{self.probe}' and train_data '{self.train_data}' go together")
        if self.probe and self.init_classes:
            raise ValueError("probe judges features, init_classes a head: give one of them")
        if self.probe:
            _check_unused(self, f"probe '{self.probe}'", ("average", "attention", "elementwise"))
        if self.init_merged and not self.init_classes:
            raise ValueError(f"init_merged '{self.init_merged}' goes with --init-classes, which is empty")


def check_captioner_views(views: ViewOptions, task: str) -> None:
    """Make sure that options of views are left alone which a captioner has from its run: it reads one clip of a video.

    Args:
        views: the options.
        task: one of OF_CAPTIONERS.

    Raises:
        ValueError: one of these options is given.
    """
    _check_unused(views, f"task {task}", _VIEWS_OF_OTHERS)


def _check_unused(section: Section, why: str, names: Sequence[str]) -> None:
    for name in names:
        default = type(section).__dataclass_fields__[name].default
        if getattr(section, name) != default:
            raise ValueError(f"{why} does not use {name}: leave it at {default!r}")
