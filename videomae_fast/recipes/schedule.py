"""Sections of options of the optimizer: how long it trains, how fast, and on how many samples at a time."""

from dataclasses import dataclass

from .config import Section, option


@dataclass(frozen=True)
class ScheduleOptions(Section):
    """Epochs, and the optimizer. Defaults are the published ViT-B pre-training."""

    epochs: int = option(200, "passes over the data", least=1)
    warmup_epochs: int = option(20, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(1e-3, "learning rate for 256 videos per step; it is scaled by videos / 256", least=0)
    final_lr: float = option(1e-5, "final learning rate, scaled in the same way", least=0)
    weight_decay: float = option(0.05, "weight decay of matrices; biases, norms and the mask token have none", least=0)
    beta2: float = option(0.95, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(0.0, "largest gradient norm; 0 does not clip (published: 0.02 for giant)", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}")


@dataclass(frozen=True)
class OptimizerOptions(ScheduleOptions):
    """Batches, epochs, and the optimizer of a loss that is a mean over samples."""

    # Free: a run continues in any number of processes whose videos per step are those it began with; `order` has them.
    batch_size: int = option(
        32, "videos per device and batch; clips are this times crops_per_video", least=1, free=True
    )
    accumulate: int = option(
        1, "batches per optimizer step; exactly one batch of accumulate x batch_size", least=1, free=True
    )

    @property
    def samples(self) -> int:
        """Samples of an optimizer step on one device."""
        return self.batch_size * self.accumulate

    @property
    def parts(self) -> int:
        """Parts that a step divides them into, each with a forward and backward pass of its own."""
        return self.accumulate
