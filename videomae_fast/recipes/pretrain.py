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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from videomae_kernels import CroppedClips

from .._text import printable_lines
from ..data import ClipBatch, number_classes
from ..engine.loop import RunResult, run
from ..engine.optim import make_optimizer
from ..engine.recipe import Recipe
from ..masks import MaskPlan
from ..models import VideoMAEConfig, VideoMAEForPretraining, stochastic_depth
from ..models.encoder import Encoder
from .config import Config, option
from .fit import fit_to_device
from .knn_monitor import KnnMonitor
from .options import DataOptions, MaskOptions, ModelOptions, RunOptions
from .schedule import OptimizerOptions
from .videos import CHEAPER_VIDEOS, EvaluationVideos, TrainingVideos


@dataclass(frozen=True)
class PretrainData(DataOptions):
    """The videos, the clips cut from them, and the videos that evaluate what is learned."""

    knn_data: str = option(
        "", "labelled videos; evaluations then also report the kNN accuracy of --eval-data, labelled too", free=True
    )

    def sources(self) -> tuple[str, ...]:
        """See `DataOptions.sources`."""
        return *super().sources(), self.knn_data

    def knn_monitor(self, batch_size: int) -> KnnMonitor:
        """The kNN evaluation of `eval_data` by `knn_data`.

        Args:
            batch_size: videos of a forward pass.

        Returns:
            The monitor.

        Raises:
            ValueError: a video has no class, or one of `eval_data` has a class that `knn_data` has not.
        """
        train = number_classes(self.read(self.knn_data, labelled=True))
        test = number_classes(self.read(self.eval_data, labelled=True), train.class_names, allow_empty=True)
        known, asked = (self.centre_views(videos) for videos in (train, test))
        return KnnMonitor(known, asked, batch_size, self.workers)


@dataclass(frozen=True)
class PretrainConfig(Config):
    """The options of a pre-training run. Defaults are the published ViT-B pre-training (scripts/pretrain)."""

    data: PretrainData = field(default_factory=PretrainData)
    masks: MaskOptions = field(default_factory=MaskOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the videos to evaluate on")
        if self.data.knn_data and not self.run.eval_every:
            raise ValueError(f"knn_data '{self.data.knn_data}' is for evaluations: give eval_every and eval_data")

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
        self.knn = config.data.knn_monitor(config.optimizer.batch_size) if config.data.knn_data else None
        model_config = config.model_config()
        model_config = fit_to_device(
            model_config,
            config.masks.plan(torch.zeros(1, dtype=torch.int64), model_config.grid, seed=0),
            clips=config.optimizer.batch_size * config.data.crops_per_video,
            accumulate=config.optimizer.accumulate,
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
        size = self.config.optimizer.samples
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
        """The mean loss over `eval_data`, and with `knn_data` its kNN accuracy.

        Crops and masks depend on the seed and the video's place in the list only.
        """
        device = next(model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        for batch, counts in self.eval_videos.batches(rank, world_size):
            batch = batch.to(device, non_blocking=True)
            plan = self._masks(batch)
            loss, weight = model(batch.clips, plan).double(), plan.loss_weight
            rows = torch.full_like(loss, plan.predicted.numel()) if weight is None else weight.double().sum()
            total += torch.stack([loss * rows, rows]) * counts
        return {"loss": total} | (self.knn.figures(_encoder(model), rank, world_size) if self.knn else {})

    def _masks(self, batch: ClipBatch) -> MaskPlan:
        return self.config.masks.plan(batch.sample, self.grid, self.config.run.seed)

    def report(self) -> list[str]:
        """See `TrainingVideos.report`."""
        return self.videos.report()


def _encoder(model: nn.Module) -> Encoder:
    """The encoder inside a model as `accelerator.prepare` returned it."""
    whole = getattr(model, "module", model)  # of DDP
    if any(hasattr(parameter, "device_mesh") for parameter in whole.parameters()):
        raise ValueError("knn_data needs whole weights in every process, and FSDP shards them: leave it out")
    return cast(Encoder, whole.encoder)


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
