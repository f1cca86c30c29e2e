"""Stage 1 of InternVideo2: align a student, which sees few tokens of a clip, with teachers that see all of it.

File structure:
    AlignConfig   the options of a run, in sections
    Part          what one forward pass of the student takes
    Alignment     the recipe: build, batches, parts, step, evaluate
    align         train with a configuration
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from videomae_kernels import CroppedClips

from .._text import printable_lines
from ..data import ClipBatch
from ..engine.loop import RunResult, run
from ..engine.optim import make_optimizer
from ..engine.recipe import Recipe
from ..masks import mask_numbers
from ..models import AlignmentLosses, InternVideo2Config, InternVideo2ForAlignment, TeacherRows, stochastic_depth
from .align_options import AlignData, AlignMasks, AlignOptimizer, StudentOptions, TeacherOptions
from .align_teachers import read_teachers
from .config import Config
from .fit import fit_to_device
from .options import RunOptions
from .videos import CHEAPER_VIDEOS, EvaluationVideos, TrainingVideos

EPS = 1e-6  # of AdamW, as published


@dataclass(frozen=True)
class AlignConfig(Config):
    """The options of an alignment. Defaults are the published stage 1 of InternVideo2-1B."""

    data: AlignData = field(default_factory=AlignData)
    masks: AlignMasks = field(default_factory=AlignMasks)
    model: StudentOptions = field(default_factory=StudentOptions)
    teachers: TeacherOptions = field(default_factory=TeacherOptions)
    optimizer: AlignOptimizer = field(default_factory=AlignOptimizer)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the videos to evaluate on")

    def model_config(self) -> InternVideo2Config:
        """The configuration of the student. Sizes that do not fit together raise ValueError."""
        return self.model.student(self.data)


class Part(NamedTuple):
    """What one forward pass of the student takes.

    Attributes:
        clips: B clips of the frames that the student reads.
        visible: (B·M, K) int64 tokens that it sees.
        image: rows of the guiding teacher; None without one.
        video: rows of the video teacher; None without one.
        numbers: (B·M,) int64 on the host, the sample numbers of stochastic depth.
        share: of the batch.
    """

    clips: CroppedClips
    visible: Tensor
    image: TeacherRows | None
    video: TeacherRows | None
    numbers: Tensor
    share: float


class Alignment(Recipe):
    """The recipe of alignment. A sample is a video; its clips have M masks each."""

    name = "align"
    cheaper = CHEAPER_VIDEOS

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self.workers, self.clips_per_sample = config.data.workers, config.data.crops_per_video
        self.ema_decay = config.optimizer.ema_decay

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make data sets, teachers, student and optimizer. Compilation is in place: the weights keep their names."""
        config, self.device = self.config, device
        student, seed = config.model_config(), config.run.seed
        with torch.random.fork_rng(devices=[]):  # the student's first weights are those of its seed, whoever teaches
            self.teachers = read_teachers(
                config.teachers,
                config.masks,
                student,
                seed=seed,
                device=device,
                precision=config.run.precision,
                say=say,
            )
        student = fit_to_device(
            student,
            self.teachers.tokens(),
            clips=config.optimizer.batch_size * config.data.crops_per_video,
            accumulate=config.optimizer.accumulate,
            averaged=config.optimizer.ema_decay > 0,
            teachers=self.teachers.weight_bytes(),
            precision=config.run.precision,
            device=device,
            say=say,
        )
        data = config.data.of_clips(self.teachers.every)
        dataset = data.dataset(seed)
        self.samples_per_epoch = len(dataset)
        self.videos = TrainingVideos(dataset, data, Path(config.run.output))
        if config.run.eval_every:
            eval_dataset = data.eval_dataset(seed)
            self.eval_videos = EvaluationVideos(eval_dataset, config.optimizer.batch_size, data.workers)
        self.numbers = tuple(self.teachers.weights)
        model = InternVideo2ForAlignment(student, self.teachers.heads)
        if note := config.run.initialize(model):
            say(printable_lines(note))
        if config.model.compile:
            model.compile(fullgraph=True)
        return model, make_optimizer(model, config.optimizer, undecayed=model.undecayed, eps=EPS)

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `TrainingVideos.order`. A run only continues with the same teachers, too."""
        return self.videos.order(samples_per_step) | {"teachers": self.teachers.digest()}

    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[ClipBatch, None, None]:
        """See `TrainingVideos.batches`."""
        self.place = rank, world_size
        size = self.config.optimizer.samples
        return self.videos.batches(size, rank, world_size, start_step, num_steps)

    def parts(self, batch: ClipBatch, count: int, device: torch.device) -> Iterator[Part]:
        """Move clips to the device, and let the teachers see them: a part at a time, so that only its rows are held."""
        numbers = mask_numbers(batch.sample, self.config.masks.masks_per_clip).chunk(count)
        batch = batch.to(device, non_blocking=True)
        for piece, own in zip(batch.split(count), numbers, strict=True):
            yield self._part(piece, own, 1 / count)  # without a name, which would keep the rows until the next part

    def _part(self, batch: ClipBatch, numbers: Tensor, share: float) -> Part:
        lesson = self.teachers(batch.clips, batch.sample)
        clips = batch.clips.every(self.teachers.every)
        return Part(clips, lesson.visible, lesson.image, lesson.video, numbers, share)

    def step(self, model: nn.Module, part: Part, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part, times its share of the batch.

        loss = image_weight · mean_k image_k + pooled_weight · pooled + video_weight · mean_k video_k
        """
        draws = stochastic_depth(seed=self.config.run.seed, step=number, sample=part.numbers)
        with draws if self.config.model.drop_path else nullcontext():
            figures = self._figures(model, part)
        return self._loss(figures) * part.share, {name: value * part.share for name, value in figures.items()}

    def _figures(self, model: nn.Module, part: Part) -> dict[str, Tensor]:
        """The loss of each kind, averaged over layers."""
        losses: AlignmentLosses = model(part.clips, part.visible, part.image, part.video)
        return {name: getattr(losses, name).mean() for name in self.numbers}

    def _loss(self, figures: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.teachers.weights[name] * value for name, value in figures.items()]).sum()

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """The mean losses over `eval_data`.

        Crops and masks depend on the seed and the video's place in the list only.
        """
        device = next(model.parameters()).device
        totals = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in ("loss", *self.numbers)}
        for batch, counts in self.eval_videos.batches(rank, world_size):
            (part,) = self.parts(batch, 1, device)
            figures = self._figures(model, part)
            figures = {"loss": self._loss(figures)} | figures
            for name, value in figures.items():
                value = value.double()
                totals[name] += torch.stack([value, torch.ones_like(value)]) * len(batch.sample) * counts
        return totals

    def explain(self, step: int) -> str:
        """Let the teachers see the batch of a step again: rows that are not finite are named."""
        size = self.config.optimizer.samples
        batch = self.videos.batch(size, *self.place, step)
        for piece in batch.to(self.device).split(self.config.optimizer.parts):
            if found := self.teachers.find_nonfinite(piece.clips, piece.sample):
                return f"Of its clips, {found}."
        return ""

    def report(self) -> list[str]:
        """See `TrainingVideos.report`."""
        return self.videos.report()


def align(config: AlignConfig) -> RunResult:
    """Align to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `AlignConfig.from_options(data="videos", model="internvideo2-base",
            video_teacher="runs/giant", output="runs/aligned")`.

    Returns:
        The last checkpoint, whose model.safetensors has the keys of published stage-1 weights, and its step. With
        `ema_decay`, model_ema.safetensors beside it holds the averaged weights.

    Raises:
        ValueError: settings, data, weights or output cannot work; a teacher's grid is not the student's, or its
            attention leaves too few tokens to draw from.
        NonFiniteLossError: the loss or a weight became NaN or infinite; the message names the teacher and the layer if
            a teacher's rows were not finite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Alignment(config))
