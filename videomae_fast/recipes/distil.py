"""Distillation: train a small classifier to give the logits of a large one on the same pixels.

File structure:
    DistilConfig        the options of a run: those of fine-tuning, and the teacher
    distillation_loss   how far the student's probabilities are from the teacher's
    Distillation        the recipe: fine-tuning with another loss
    distil              train with a configuration
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import __version__
from ..data import ClipBatch
from ..data.augment.upload import upload
from ..data.loader import StepSampler
from ..engine.loop import RunResult, run
from ..engine.precision import resolve_precision
from ..models.config import ClipConfig
from ..models.memory_budget import BYTES
from .config import Section, option
from .finetune import FinetuneConfig, Finetuning, Part
from .logit_cache import LogitCache
from .teacher import Teacher, read_teacher, weights_digest


@dataclass(frozen=True)
class DistillationOptions(Section):
    """The teacher, and what the student learns from it."""

    teacher: str = option("", "the classifier to learn from: published or Hugging Face weights, or a run", free=True)
    teacher_classes: str = option(
        "",
        "classes of the head of --teacher, of which ours are picked by name: a file of names, one a line or a JSON "
        "list; or a JSON list with the row of each of our classes",
        free=True,  # a run continues with the same rows of the same weights, wherever they are
    )
    temperature: float = option(1.0, "divides the logits of both before softmax; the loss is times its square", least=0)
    label_weight: float = option(0.0, "factor of the cross-entropy with the labels, added to the loss", least=0)
    cache_logits: str = option(
        "", "folder of the teacher's logits: read where they are there, written where not; empty: no files", free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0:
            raise ValueError("temperature must be positive, got 0")


@dataclass(frozen=True)
class DistilConfig(FinetuneConfig):
    """The options of a distillation: those of fine-tuning, which are the student's, and the teacher's."""

    distillation: DistillationOptions = field(default_factory=DistillationOptions)


class TaughtPart(NamedTuple):
    """A share of a batch, and the teacher's logits of its clips: (B, C) float16."""

    part: Part
    teacher: Tensor


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """How far the student's probabilities are from the teacher's.

        loss = τ² · mean_b KL(p_b ‖ q_b) = τ² · mean_b Σ_c p_bc · (ln p_bc − ln q_bc)
        p = softmax(teacher / τ), q = softmax(student / τ)

    The factor τ² keeps the size of gradients where τ changes.

    Args:
        student: logits (B, C), float32 or float64.
        teacher: logits (B, C), any floating dtype. No gradient flows into them.
        temperature: τ, positive.

    Returns:
        A scalar in the dtype of `student`.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.

    References:
        Hinton et al., Distilling the knowledge in a neural network, arXiv 1503.02531, section 2.1; Beyer et al.,
        Knowledge distillation: a good teacher is patient and consistent, CVPR 2022, for τ = 1 without labels.
    """
    if student.shape != teacher.shape or student.ndim != 2:
        raise ValueError(
            f"student and teacher must be logits (B, C) alike, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    log_q = F.log_softmax(student / temperature, 1)
    log_p = F.log_softmax(teacher.detach().to(student.dtype) / temperature, 1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


class Distillation(Finetuning):
    """The recipe of distillation. A sample is a video; teacher and student see the same augmented, mixed clips."""

    name = "distil"
    numbers = ("kl", "agreement")  # agreement: share of clips where both have the same class first
    config: DistilConfig
    cache: LogitCache | None = None
    teacher: Teacher | None = None  # none where all logits are cached

    def __init__(self, config: DistilConfig) -> None:
        super().__init__(config)

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """As fine-tuning, of the student. `batches` puts the teacher on the device if it is needed."""
        self.device, self.say = device, say
        return super().build(device, say)

    def read_teacher(self, student: ClipConfig, say: Callable[[str], None]) -> int:
        """Read the teacher. Its weights count as on the device, although it stays away where all logits are cached."""
        options = self.config.distillation
        self.classifier = read_teacher(options.teacher, options.teacher_classes, self.class_names, student, say)
        self.teacher_digest = weights_digest(self.classifier)
        numbers = sum(tensor.numel() for tensor in self.classifier.state.values())
        return numbers * BYTES[resolve_precision(self.config.run.precision)]

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `Finetuning.order`. A run only continues with the same teacher, too."""
        return super().order(samples_per_step) | {"teacher": self.teacher_digest}

    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[ClipBatch, None, None]:
        """See `Finetuning.batches`. Before the first batch, build the teacher unless the logits of all are cached."""
        missing, where = num_steps, self.config.distillation.cache_logits
        if where:
            self.cache = LogitCache(Path(where), self.cache_key(world_size), len(self.class_names))
            missing = self.cache.open(self._first_samples(rank, world_size, start_step, num_steps), rank)
            self.say(f"teacher logits of {num_steps - missing} of {num_steps} steps are in {where}")
        if missing:
            model = self.config.model
            self.teacher = Teacher(
                self.classifier,
                self.device,
                precision=self.config.run.precision,
                attention=model.attention,
                elementwise=model.elementwise,
                compile=model.compile,
            )
        del self.classifier  # the model has its own weights
        return super().batches(rank, world_size, start_step, num_steps)

    def cache_key(self, world_size: int) -> dict[str, Any]:
        """All that decides the logits of a batch, beside the pixels of the videos: {name: value}.

        Labels and their smoothing change no pixels, and the student's options neither, so they are left out.

        Args:
            world_size: number of training processes: mixing depends on how samples form batches.

        Returns:
            Values that JSON can hold.
        """
        config, optimizer = self.config, self.config.optimizer
        data = {each.name: getattr(config.data, each.name) for each in fields(config.data) if not each.metadata["free"]}
        augmentation = asdict(config.augmentation)
        del augmentation["smoothing"]
        return {
            "version": __version__,
            "teacher": self.teacher_digest,
            "precision": resolve_precision(config.run.precision),
            "videos": self.videos.dataset.annotations.fingerprint(),
            "seed": config.run.seed,
            "processes": world_size,
            "videos_per_batch": optimizer.samples,
            **data,
            **augmentation,
        }

    def _first_samples(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Iterator[int]:
        """The first clip's sample number in each batch to come."""
        dataset = self.videos.dataset
        size = self.config.optimizer.samples
        sampler = StepSampler(dataset.annotations, size, dataset.seed, rank, world_size)
        for step in range(start_step, start_step + num_steps):
            yield sampler.first_sample(step) * dataset.crops_per_video

    def parts(self, batch: ClipBatch, count: int, device: torch.device) -> Iterator[TaughtPart]:  # type: ignore[override]
        """As fine-tuning, with the teacher's logits: cached ones, or those of the part's own clips, which are then
        written when all parts are through."""
        parts = super().parts(batch, count, device)
        if self.cache is not None and (self.teacher is None or self.cache.has(batch)):
            yield from map(TaughtPart, parts, upload(self.cache.read(batch), device).chunk(count))
            return
        assert self.teacher is not None
        found = []
        for part in parts:
            found.append(self.teacher(part.clips))
            yield TaughtPart(part, found[-1])
        if self.cache is not None:
            self.cache.write(batch, torch.cat(found))

    def step(self, model: nn.Module, taught: TaughtPart, number: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """The loss of a part, times its share of the batch.

        loss = distillation_loss + label_weight · cross-entropy of the logits and the soft targets
        """
        options, part = self.config.distillation, taught.part
        logits = self.logits(model, part, number)
        loss = kl = distillation_loss(logits, taught.teacher, options.temperature)
        if options.label_weight:
            loss = kl + options.label_weight * F.cross_entropy(logits, part.targets)
        agreement = (logits.argmax(1) == taught.teacher.argmax(1)).float().mean()
        return loss * part.share, {"kl": kl * part.share, "agreement": agreement * part.share}

    def report(self) -> list[str]:
        """See `TrainingVideos.report`. Finishes the files of logits."""
        if self.cache is not None:
            self.cache.close()
        return super().report()


def distil(config: DistilConfig) -> RunResult:
    """Distil to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `DistilConfig.from_options(data="list.csv", teacher="runs/giant", model="small",
            init="runs/small", output="runs/distilled")`.

    Returns:
        The last checkpoint and its step, as `finetune` returns them.

    Raises:
        ValueError: settings, data, labels, weights or output cannot work; the teacher takes other clips or has other
            classes; cached logits are damaged or of another run.
        NonFiniteLossError: the loss or a weight became NaN or infinite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Distillation(config))
