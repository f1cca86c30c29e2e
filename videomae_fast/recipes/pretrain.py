"""VideoMAE V2 pre-training: predict the pixels of hidden tokens from the visible ones.

File structure:
    PretrainConfig   the options of a run, in sections
    DEMO             the options of `--demo`
    Pretraining      the recipe: build, batches, parts, step, evaluate
    pretrain         train with a configuration
"""

from collections.abc import Callable, Generator
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
from ..masks import MaskPlan
from ..models import VideoMAEConfig, VideoMAEForPretraining, stochastic_depth
from .config import Config
from .fit import fit_to_device
from .options import DataOptions, MaskOptions, ModelOptions, OptimizerOptions, RunOptions
from .videos import CHEAPER_VIDEOS, EvaluationVideos, TrainingVideos


@dataclass(frozen=True)
class PretrainConfig(Config):
    """The options of a pre-training run. Defaults are the published ViT-B pre-training (scripts/pretrain)."""

    data: DataOptions = field(default_factory=DataOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the videos to evaluate on")

    def model_config(self) -> VideoMAEConfig:
        """The configuration of the model. Sizes that do not fit together raise ValueError."""
        return self.model.config(self.data)


# A few minutes on two CPU cores: real clips, small enough to watch the loss fall.
DEMO = PretrainConfig.from_options(
    model="small",
    image_size=112,
    frame_stride=2,
    workers=1,
    batch_size=2,
    epochs=80,
    warmup_epochs=5,
    lr=1e-3 * 256 / 2,
    final_lr=1e-5 * 256 / 2,
    log_every=5,
    save_every=50,
)


class Part(NamedTuple):
    """Clips of a batch, their masks, and their sample numbers: (B,) int64 on the host."""

    clips: CroppedClips
    plan: MaskPlan
    numbers: Tensor


class Pretraining(Recipe):
    """The recipe of VideoMAE V2 pre-training. A sample is a video."""

    name = "pretrain"
    cheaper = CHEAPER_VIDEOS

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.workers, self.clips_per_sample = config.data.workers, config.data.crops_per_video

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make data sets, model and optimizer. Compilation is in place, so that the weights keep their names."""
        config = self.config
        dataset = config.data.dataset(config.run.seed)
        self.samples_per_epoch = len(dataset)
        self.videos = TrainingVideos(dataset, config.data, Path(config.run.output))
        if config.run.eval_every:
            eval_dataset = config.data.eval_dataset(config.run.seed)
            self.eval_videos = EvaluationVideos(eval_dataset, config.optimizer.batch_size, config.data.workers)
        model_config = config.model_config()
        model_config = fit_to_device(
            model_config,
            config.masks.plan(torch.zeros(1, dtype=torch.int64), model_config.grid, seed=0),
            clips=config.optimizer.batch_size * config.data.crops_per_video,
            precision=config.run.precision,
            device=device,
            say=say,
        )
        model = VideoMAEForPretraining(model_config)
        if note := config.run.initialize(model):
            say(printable_lines(note))
        self.grid = model.config.grid
        if config.model.compile:
            model.compile(fullgraph=True)
        return model, make_optimizer(model, config.optimizer, undecayed={"mask_token"})

    def order(self, samples_per_step: int) -> dict[str, Any]:
        """See `TrainingVideos.order`."""
        return self.videos.order(samples_per_step)

    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[ClipBatch, None, None]:
        """See `TrainingVideos.batches`."""
        size = self.config.optimizer.batch_size * self.config.optimizer.accumulate
        return self.videos.batches(size, rank, world_size, start_step, num_steps)

    def parts(self, batch: ClipBatch, count: int, device: torch.device) -> list[Part]:
        """Move clips to the device and make masks. Splitting the whole plan gives each part its share of the loss."""
        numbers = batch.sample
        batch = batch.to(device, non_blocking=True)
        plan = self._masks(batch)
        if count == 1:
            return [Part(batch.clips, plan, numbers)]
        clips = [part.clips for part in batch.split(count)]
        return [Part(*part) for part in zip(clips, plan.split(count), numbers.chunk(count), strict=True)]

    def step(self, model: nn.Module, part: Part, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part: mean squared error of the predicted pixels, times the part's share of the loss rows."""
        if self.config.model.drop_path:
            with stochastic_depth(seed=self.config.run.seed, step=number, sample=part.numbers):
                return model(part.clips, part.plan), {}
        return model(part.clips, part.plan), {}

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """The mean loss over `eval_data`. Crops and masks depend on the seed and the video's place in the list only."""
        device = next(model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        for batch, counts in self.eval_videos.batches(rank, world_size):
            batch = batch.to(device, non_blocking=True)
            plan = self._masks(batch)
            loss, weight = model(batch.clips, plan).double(), plan.loss_weight
            rows = torch.full_like(loss, plan.predicted.numel()) if weight is None else weight.double().sum()
            total += torch.stack([loss * rows, rows]) * counts
        return {"loss": total}

    def _masks(self, batch: ClipBatch) -> MaskPlan:
        return self.config.masks.plan(batch.sample, self.grid, self.config.run.seed)

    def report(self) -> list[str]:
        """See `TrainingVideos.report`."""
        return self.videos.report()


def pretrain(config: PretrainConfig) -> RunResult:
    """Pre-train to the end, to `max_steps`, or until SIGTERM or Ctrl-C; each of the three leaves a checkpoint.

    Args:
        config: the run, for example `PretrainConfig.from_options(data="videos", output="runs/mine")`.

    Returns:
        The last checkpoint, whose model.safetensors is in the published layout, and its step.

    Raises:
        ValueError: settings, data or output cannot work.
        NonFiniteLossError: the loss or a weight became NaN or infinite.
        UnreadableVideosError: too many videos cannot be read.
        OSError: the disk is full or broken, or a data-loading process died; the message names the last checkpoint.
    """
    return run(Pretraining(config))
