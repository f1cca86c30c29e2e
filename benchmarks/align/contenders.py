"""An alignment step as a case of `benchmarks.model.contenders.StepContenders`."""

from dataclasses import dataclass

import torch

from benchmarks.align.models import AlignBatch
from benchmarks.align.sizes import ALIGN_SIZES
from benchmarks.align.steps import make_align_step
from benchmarks.model.steps import ComparedStep


@dataclass(frozen=True)
class AlignCase:
    """An alignment step on `batch_size` masked clips: batch_size / masks clips of `masks` masks each."""

    size: str
    precision: str
    masks: int
    batch_size: int
    device: torch.device

    def __post_init__(self) -> None:
        if self.size not in ALIGN_SIZES:
            raise ValueError(f"size must be one of {tuple(ALIGN_SIZES)} to align, got '{self.size}'")
        if self.batch_size % self.masks:
            raise ValueError(f"batch_size must be a multiple of {self.masks} masks per clip, got {self.batch_size}")

    @property
    def suite(self) -> str:
        return "align"

    @property
    def reference(self) -> str:
        """The implementation that the others must agree with."""
        return "published, checkpointed" if ALIGN_SIZES[self.size].checkpoints else "published"

    def inputs(self) -> AlignBatch:
        return AlignBatch(ALIGN_SIZES[self.size], self.batch_size // self.masks, self.masks, self.device)

    def make_step(self, name: str, inputs: AlignBatch) -> ComparedStep:
        return make_align_step(name, inputs, self.precision)

    def __str__(self) -> str:
        config = ALIGN_SIZES[self.size].student
        clip = f"{config.num_frames}x{config.image_size[0]}x{config.image_size[1]}"
        masks = f"{self.masks} masks per clip" if self.masks > 1 else "1 mask per clip"
        return f"{self.batch_size} masked clips of {clip}, {self.precision}, {masks}"
