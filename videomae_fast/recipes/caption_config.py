"""The configuration of training on answers: its sections, its optimizer, and what it may start from.

Defaults are those of VideoChat2's second stage where it tells them, for 256 samples per step.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..engine.checkpoint import list_checkpoints
from ..interop.captioner import init_captioner, init_connector, is_captioner
from ..interop.checkpoint import read_weights
from ..interop.video_tower import init_video_tower
from ..models.captioner import VideoCaptioner
from .caption_options import CaptionData, CaptionTowerOptions, ConnectorOptions, LanguageOptions
from .config import Config, option
from .options import RunOptions
from .schedule import OptimizerOptions
from .start import last_checkpoint


@dataclass(frozen=True)
class CaptionOptimizer(OptimizerOptions):
    """Batches, epochs, and the optimizer."""

    batch_size: int = option(16, "videos per device and batch", least=1, free=True)
    epochs: int = option(1, "passes over the data", least=1)
    warmup_epochs: int = option(0, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(2e-4, "learning rate for 256 videos per step; it is scaled by videos / 256", least=0)
    final_lr: float = option(2e-6, "final learning rate, scaled in the same way", least=0)
    weight_decay: float = option(
        0.02, "weight decay of matrices; biases, norms, positions and queries have none", least=0
    )
    beta2: float = option(0.999, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(0.0, "largest gradient norm; 0 does not clip", least=0)


@dataclass(frozen=True)
class CaptionRun(RunOptions):
    """The output, start, end and reports of a run."""

    init: str = option(
        "",
        "weights to start from: a run of caption, with its connector and adapters; or of the video tower: a run of "
        "contrast, pretrain or align, published weights, or an image model of transformers",
        free=True,
    )
    init_connector: str = option(
        "",
        "weights of the connector: VideoChat2's for qformer, OpenFlamingo's for resampler, or a run of caption; not "
        "with --init of a run of caption",
        free=True,
    )

    def _load(self, model: nn.Module, source: Path) -> str:
        """Load a captioner, or weights of a video tower and of a connector."""
        assert isinstance(model, VideoCaptioner)
        strict = not self.init_partial
        if is_captioner(read_weights(source)):
            if self.init_connector:
                raise ValueError(
                    f"init_connector '{self.init_connector}' does not go with init '{self.init}', which is a run of "
                    "caption and has a connector"
                )
            return init_captioner(model, source, strict)
        note = init_video_tower(model.vision_encoder, source, strict)
        return note or f"all weights of the video tower are from {source}"

    def initialize(self, model: nn.Module) -> str:
        """Load the weights that `init` and `init_connector` name, unless the run continues from a checkpoint.

        Args:
            model: a new captioner.

        Returns:
            A message for the user, as `RunOptions.initialize`.

        Raises:
            FileNotFoundError: a file or folder does not exist.
            ValueError: weights cannot be read or do not fit, or both options have a connector.
        """
        notes = [super().initialize(model)]
        if self.init_connector and not (self.resume and list_checkpoints(Path(self.output))):
            assert isinstance(model, VideoCaptioner)
            source = last_checkpoint(Path(self.init_connector))
            note = init_connector(model.connector, source, not self.init_partial)
            notes.append(note or f"all weights of the connector are from {source}")
        return "\n".join(filter(None, notes))


@dataclass(frozen=True)
class CaptionConfig(Config):
    """The options of training a language model's answers about videos."""

    data: CaptionData = field(default_factory=CaptionData)
    model: CaptionTowerOptions = field(default_factory=CaptionTowerOptions)
    connector: ConnectorOptions = field(default_factory=ConnectorOptions)
    language: LanguageOptions = field(default_factory=LanguageOptions)
    optimizer: CaptionOptimizer = field(default_factory=CaptionOptimizer)
    run: CaptionRun = field(default_factory=CaptionRun)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the captions to evaluate on")
        if self.language.recompute_language and self.connector.inject != "prefix":
            raise ValueError(
                "recompute_language goes with inject prefix only: layers that run again would not read the video"
            )
