"""Alignment steps on fake tensors, to predict memory and count FLOPs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.align.models import AlignBatch
from benchmarks.align.sizes import AlignSize
from benchmarks.align.steps import make_align_step
from benchmarks.baselines.internvideo2 import selection
from benchmarks.model.steps import ComparedStep
from videomae_fast.memory.fake_cuda import DEVICE, known_true

PREDICTABLE = ("published, checkpointed", "videomae_fast", "videomae_fast, checkpointed")
PUBLISHED_ROWS = selection.kept_rows


class PredictableAlignment:
    """An alignment step whose number of clips can change: what `fake_step` and `StepPredictor` run.

    Args:
        name: one of PREDICTABLE.
        batch: the first batch, and the settings of those that follow.
        precision: "bf16"; fake models cannot be cast to another dtype.
    """

    def __init__(self, name: str, batch: AlignBatch, precision: str) -> None:
        self.precision, self.batch = precision, batch
        self.step: ComparedStep = make_align_step(name, batch, precision)
        self.set_batch_size(batch.clips)

    def __call__(self) -> None:
        with counted_rows(self.batch):
            self.step()

    def set_batch_size(self, clips: int) -> None:
        """Replace the inputs. Only those of the implementation are kept."""
        size, masks, ratio = self.batch.size, self.batch.masks, self.batch.mask_ratio
        self.batch = batch = AlignBatch(size, clips, masks, DEVICE, ratio)
        self.step.loss = self.step.implementation.make_loss(batch, self.model, self.precision)
        self.step.inputs = self.step.implementation.inputs(batch)
        masked = batch.visible, batch.hidden  # made before the step, which makes its own and takes these
        vars(batch).update(zip(("visible", "hidden"), masked, strict=True))
        if any(each is vars(batch).get("repeated_clip") for each in self.step.inputs):
            vars(batch).pop("frames")

    @property
    def model(self) -> nn.Module:
        return self.step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.step.optimizer


def counted_rows(batch: AlignBatch) -> AbstractContextManager[object]:
    """The context in which fake boolean masks of a batch select rows: how many are left is known."""
    frames, height, width = batch.size.student.grid
    tokens, visible = frames * height * width, frames * batch.visible_per_frame

    def kept_rows(x: Tensor, hidden: Tensor) -> Tensor:
        extra = hidden.shape[-1] - tokens  # the cls token
        known_true(hidden, hidden.numel() // hidden.shape[-1] * (tokens - visible))
        assert extra in (0, 1)
        return PUBLISHED_ROWS(x, hidden)

    return mock.patch.object(selection, "kept_rows", kept_rows)


def make_predictable(
    name: str, size: AlignSize, clips: int, masks: int, precision: str = "bf16"
) -> Callable[[], PredictableAlignment]:
    """Returns a function that builds the named step, for `fake_step`; ValueError for a name not in PREDICTABLE."""
    if name not in PREDICTABLE:
        raise ValueError(f"name must be one of {PREDICTABLE}, got '{name}'")
    return lambda: PredictableAlignment(name, AlignBatch(size, clips, masks, DEVICE), precision)
