"""A fine-tuning step as a case of `benchmarks.model.contenders.StepContenders`."""

from dataclasses import dataclass, replace

import torch

from benchmarks.finetune.steps import DROP_PATH, FinetuningInputs, make_finetuning_step
from benchmarks.model.steps import ComparedStep
from benchmarks.settings import SIZES
from videomae_fast.models import VideoMAEConfig


@dataclass(frozen=True)
class FinetuningCase:
    """A fine-tuning step that several implementations make."""

    size: str
    precision: str
    batch_size: int
    device: torch.device

    @property
    def suite(self) -> str:
        return "finetune"

    @property
    def reference(self) -> str:
        """The implementation that the others must agree with. No published script checkpoints."""
        return "published"

    @property
    def config(self) -> VideoMAEConfig:
        """The model with the published rate of drop path."""
        return replace(SIZES[self.size], drop_path=DROP_PATH[self.size])

    def inputs(self) -> FinetuningInputs:
        return FinetuningInputs(self.config, self.batch_size, self.device)

    def make_step(self, name: str, inputs: FinetuningInputs) -> ComparedStep:
        return make_finetuning_step(name, inputs, self.precision)

    def __str__(self) -> str:
        config = self.config
        clip = f"{config.num_frames}x{config.image_size[0]}x{config.image_size[1]}"
        return f"{self.batch_size} clips of {clip}, {self.precision}, drop path {config.drop_path}"
