"""The configuration of contrastive pre-training: its sections, its optimizer, and what it may start from.

LongViViT does not tell its optimizer: the defaults are those of InternVideo2's second stage, but for the learning rate
and the pairs of a step, which are decided here.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..interop.checkpoint import read_weights
from ..interop.video_text import init_video_text
from ..interop.video_tower import init_video_tower
from ..models.dual_encoder import VideoTextModel
from .config import Config, option
from .contrast_options import (
    AudioTowerOptions,
    ContrastData,
    ContrastMasks,
    FusionOptions,
    LossOptions,
    TextTowerOptions,
    VideoTowerOptions,
)
from .options import RunOptions
from .schedule import ScheduleOptions


@dataclass(frozen=True)
class ContrastOptimizer(ScheduleOptions):
    """Pairs of a step, epochs, and the optimizer."""

    batch_size: int = option(64, "pairs per device and step", least=1, free=True)
    micro_batch: int = option(
        0,
        "pairs whose activations are in memory at a time: the towers run twice, and gradients are those of the whole "
        "batch; 0: all of batch_size, once",
        least=0,
    )
    epochs: int = option(10, "passes over the data", least=1)
    warmup_epochs: int = option(1, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(2.5e-5, "learning rate for 256 pairs per step; it is scaled by pairs / 256", least=0)
    final_lr: float = option(2.5e-7, "final learning rate, scaled in the same way", least=0)
    weight_decay: float = option(0.05, "weight decay of matrices; biases, norms and positions have none", least=0)
    beta2: float = option(0.98, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(3.0, "largest gradient norm; 0 does not clip", least=0)
    ema_decay: float = option(
        0.0, "decay per step of an average of the weights, which is evaluated and saved too; 0: none", least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")

    @property
    def samples(self) -> int:
        """Pairs of an optimizer step on one device."""
        return self.batch_size

    @property
    def part_size(self) -> int:
        """Pairs that the towers run on at a time."""
        return self.micro_batch or self.batch_size

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return self.batch_size // self.part_size


@dataclass(frozen=True)
class ContrastRun(RunOptions):
    """The output, start, end and reports of a run."""

    init: str = option(
        "",
        "weights to start from: a run of contrast, of pretrain or of align, published weights, or an image model of "
        "transformers",
        free=True,
    )

    def _load(self, model: nn.Module, source: Path) -> str:
        """Load a dual encoder, or weights of a video tower alone; its projection and the text tower are then new."""
        assert isinstance(model, VideoTextModel)
        strict, names = not self.init_partial, read_weights(source).keys()
        if all(any(name.startswith(tower) for name in names) for tower in ("vision_encoder.", "text_encoder.")):
            return init_video_text(model, source, strict)
        note = init_video_tower(model.vision_encoder, source, strict)
        return note or f"all weights of the video tower are from {source}"


@dataclass(frozen=True)
class ContrastConfig(Config):
    """The options of contrastive pre-training."""

    data: ContrastData = field(default_factory=ContrastData)
    masks: ContrastMasks = field(default_factory=ContrastMasks)
    model: VideoTowerOptions = field(default_factory=VideoTowerOptions)
    text: TextTowerOptions = field(default_factory=TextTowerOptions)
    audio: AudioTowerOptions = field(default_factory=AudioTowerOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    optimizer: ContrastOptimizer = field(default_factory=ContrastOptimizer)
    run: ContrastRun = field(default_factory=ContrastRun)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the captions to evaluate on")
        masked = self.masks.mask_ratio or self.masks.image_mask_ratio
        if self.model.video_features and (self.model.train != "none" or masked):
            raise ValueError(
                f"video_features '{self.model.video_features}' needs train none, mask_ratio 0 and image_mask_ratio 0: "
                "what is trained or masked has other features in every step"
            )
        if self.audio.audio_model and not self.fusion.fusion_layers:
            raise ValueError(f"audio_model '{self.audio.audio_model}' needs fusion_layers: these layers read the sound")
        if self.audio.audio_model and self.model.video_features:
            raise ValueError(
                f"audio_model '{self.audio.audio_model}' does not go with video_features "
                f"'{self.model.video_features}': sound is read with the video"
            )
        if self.fusion.fusion_layers and self.text.freeze_text:
            raise ValueError(
                f"freeze_text does not go with fusion_layers {self.fusion.fusion_layers}: layers of the text model "
                "learn to read the video"
            )
