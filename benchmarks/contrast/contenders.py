"""A contrastive step as a case of `benchmarks.model.contenders.StepContenders`."""

from dataclasses import dataclass

import torch

from benchmarks.contrast.sizes import CONTRAST_SIZES, LAST
from benchmarks.contrast.steps import ALL_TRAINED, LAST_TRAINED, NAIVE, ContrastBatch, make_contrast_step
from benchmarks.model.steps import ComparedStep


@dataclass(frozen=True)
class ContrastCase:
    """A contrastive step on `batch_size` clips; `last_only`: what is trained are the last blocks of the video tower."""

    size: str
    precision: str
    frames: int
    mask_ratio: float
    last_only: bool
    batch_size: int
    device: torch.device

    @property
    def suite(self) -> str:
        return "contrast"

    @property
    def reference(self) -> str:
        """The implementation that the others must agree with."""
        return NAIVE

    @property
    def implementations(self) -> tuple[str, ...]:
        return LAST_TRAINED if self.last_only else ALL_TRAINED

    def inputs(self) -> ContrastBatch:
        size = CONTRAST_SIZES[self.size]
        return ContrastBatch(size, self.frames, self.mask_ratio, self.batch_size, self.device, self.last_only)

    def make_step(self, name: str, inputs: ContrastBatch) -> ComparedStep:
        return make_contrast_step(name, inputs, self.precision)

    def __str__(self) -> str:
        height, width = CONTRAST_SIZES[self.size].video.image_size
        trained = f"last {LAST} blocks trained" if self.last_only else "all trained"
        clip = f"{self.frames}x{height}x{width}"
        return f"{self.batch_size} clips of {clip}, {self.precision}, mask ratio {self.mask_ratio}, {trained}"
