"""Fine-tuning: train a classifier of labelled videos from pre-trained weights. Post-pre-training is the same recipe.

File structure:
    FinetuneConfig   the options of a run, in sections
    Finetuning       the recipe: build, batches, parts, step, evaluate
    finetune         train with a configuration
"""

import json
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from .._text import printable_lines
from ..data import ClipBatch
from ..data.augment import smooth_targets
from ..engine.loop import RunResult, run
from ..engine.optim import make_optimizer
from ..engine.recipe import Recipe
from ..interop import CLASSES_FILE, trained_clip
from ..interop.settings import settings_beside
from ..models import stochastic_depth
from ..models.config import ClipConfig
from ..models.encoder import Clip
from .classifier_options import ClassifierOptions, LayerwiseOptimizer
from .config import Config
from .fit import fit_to_device
from .labelled_options import AugmentOptions, LabelledData, labels_digest
from .start import ClassifierRun
from .videos import CHEAPER_VIDEOS, TrainingVideos
from .views import EvaluationViews


@dataclass(frozen=True)
class FinetuneConfig(Config):
    """The options of a fine-tuning run. Defaults are the published fine-tuning of ViT-B on Kinetics-400."""

    data: LabelledData = field(default_factory=LabelledData)
    augmentation: AugmentOptions = field(default_factory=AugmentOptions)
    model: ClassifierOptions = field(default_factory=ClassifierOptions)
    optimizer: LayerwiseOptimizer = field(default_factory=LayerwiseOptimizer)
    run: ClassifierRun = field(default_factory=ClassifierRun)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the videos to evaluate on")

    def model_config(self) -> ClipConfig:
        """The configuration of the model. Sizes that do not fit together raise ValueError."""
        return self.model.config(self.data)


class Part(NamedTuple):
    """Clips, the tokens to compute (None: all), soft targets, sample numbers on the host, and a share of the batch."""

    clips: Clip
    tokens: Tensor | None
    targets: Tensor
    numbers: Tensor
    share: float


class Finetuning(Recipe):
    """The recipe of fine-tuning. A sample is a video."""

    name = "finetune"
    cheaper = CHEAPER_VIDEOS

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.workers, self.clips_per_sample = config.data.workers, config.data.crops_per_video
        self.ema_decay = config.optimizer.ema_decay

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make data sets, model and optimizer. Compilation is in place, so that the weights keep their names."""
        videos = self.config.data.labelled_videos()
        self.class_names = videos.class_names
        config = self._with_positions()
        seed, model_config = config.run.seed, config.model_config()
        self.augmentation = config.augmentation.clips(model_config, seed)
        self.mixer = config.augmentation.mixer(len(self.class_names), seed)
        dataset = config.data.training_clips(videos, seed, self.augmentation)
        self.samples_per_epoch = len(dataset)
        self.videos, self.labels = TrainingVideos(dataset, config.data, Path(config.run.output)), labels_digest(videos)
        if config.run.eval_every:
            views = config.data.evaluation_views(self.class_names)
            self.views = EvaluationViews(views, config.optimizer.batch_size, config.data.workers)
        if config.model.drop_tokens:
            say(f"drop_tokens {config.model.drop_tokens}: tokens are left out in training, which changes results")
        tokens = model_config.num_tokens - int(model_config.num_tokens * config.model.dropped_share())
        model_config = fit_to_device(
            model_config,
            tokens,
            clips=config.optimizer.batch_size * config.data.crops_per_video,
            accumulate=config.optimizer.accumulate,
            averaged=config.optimizer.ema_decay > 0,
            teachers=self.read_teacher(model_config, say),
            precision=config.run.precision,
            device=device,
            say=say,
        )
        model = config.model.classifier(model_config, len(self.class_names))
        if note := config.run.start(model, self.class_names):
            say(printable_lines(note))
        config.model.choose_trained(model)
        self.model_config = model_config
        if config.model.compile:
            model.compile(fullgraph=True)
        return model, make_optimizer(model, config.optimizer, undecayed=model.undecayed, layer=model.layer_id)

    def read_teacher(self, student: ClipConfig, say: Callable[[str], None]) -> int:
        """The bytes that the weights of a teacher take: fine-tuning has none."""
        return 0

    def _with_positions(self) -> FinetuneConfig:
        """The configuration with the clip whose fixed positions the weights had in training, as checkpoints keep it."""
        if not self.config.model.learns_positions and not self.config.model.trained_clip:
            run = self.config.run
            saved = settings_beside(run.source).get("trained_clip") if run.continues and run.source else None
            clip = saved if isinstance(saved, str) and saved else "x".join(map(str, trained_clip(run.source)))
            self.config = self.config.with_options(trained_clip=clip)
        return self.config

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `TrainingVideos.order`. A run only continues with the same classes and labels, too."""
        return self.videos.order(samples_per_step) | self.labels

    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[ClipBatch, None, None]:
        """See `TrainingVideos.batches`."""
        size = self.config.optimizer.samples
        return self.videos.batches(size, rank, world_size, start_step, num_steps)

    def parts(self, batch: ClipBatch, count: int, device: torch.device) -> list[Part]:
        """Move clips to the device, augment and mix them there, and choose their tokens."""
        numbers, crops = batch.sample, batch.crops_per_video
        batch = batch.to(device, non_blocking=True)
        assert batch.label is not None
        clips: Clip = batch.clips
        if self.augmentation.needs_tensor or self.mixer.mixes:
            augmented = self.augmentation(batch.clips, numbers, batch.matrix)
            clips, targets = self.mixer(augmented, batch.label, numbers, crops)
        else:
            targets = smooth_targets(batch.label, len(self.class_names), self.config.augmentation.smoothing)
        tokens = self.config.model.kept_tokens(batch, self.model_config, self.config.run.seed)
        if count == 1:
            return [Part(clips, tokens, targets, numbers, 1.0)]
        pieces = clips.chunk(count) if isinstance(clips, Tensor) else [part.clips for part in batch.split(count)]
        kept = [None] * count if tokens is None else tokens.chunk(count)
        return [
            Part(pieces[k], kept[k], targets.chunk(count)[k], numbers.chunk(count)[k], 1 / count) for k in range(count)
        ]

    def logits(self, model: nn.Module, part: Part, number: int) -> Tensor:
        """The model's logits (B, C) of a part in float32, with the stochastic depth of step `number`."""
        draws = stochastic_depth(seed=self.config.run.seed, step=number, sample=part.numbers)
        with draws if self.config.model.drop_path else nullcontext():
            return model(part.clips, part.tokens).float()

    def step(self, model: nn.Module, part: Part, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part: cross-entropy of the logits and the soft targets, times the part's share of the batch."""
        return F.cross_entropy(self.logits(model, part, number), part.targets) * part.share, {}

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """Loss, top-1 and top-5 accuracy over `eval_data`: one centre view of each video."""
        return self.views.figures(model, rank, world_size)

    def files(self) -> dict[str, str]:
        """The names of the classes."""
        return {CLASSES_FILE: json.dumps(self.class_names, indent=0) + "\n"}

    def report(self) -> list[str]:
        """See `TrainingVideos.report`."""
        return self.videos.report()


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `FinetuneConfig.from_options(data="list.csv", init="runs/mine", output="runs/ft")`.

    Returns:
        The last checkpoint and its step. Its model.safetensors is in the published layout; with `lora_rank` in that of
        peft, which `read_classifier` merges. Beside it, classes.json has the names of the classes, and with `ema_decay`
        model_ema.safetensors the averaged weights.

    Raises:
        ValueError: settings, data, labels, weights or output cannot work.
        NonFiniteLossError: the loss or a weight became NaN or infinite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Finetuning(config))
