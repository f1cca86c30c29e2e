"""Contrastive steps on fake tensors, to predict memory and count FLOPs."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from benchmarks.contrast.steps import ContrastBatch, make_contrast_step
from benchmarks.model.steps import ComparedStep
from videomae_fast.memory.fake_cuda import known_true


class PredictableContrast:
    """A contrastive step whose inputs can change: what `fake_step` runs.

    Args:
        name: one of `benchmarks.contrast.steps.IMPLEMENTATIONS`.
        batch: the first batch.
        precision: "bf16"; fake models cannot be cast to another dtype.
    """

    def __init__(self, name: str, batch: ContrastBatch, precision: str) -> None:
        self.precision = precision
        self.step: ComparedStep = make_contrast_step(name, batch, precision)
        self.set_batch(batch, batch.clips)

    def __call__(self) -> None:
        self.step()

    def set_batch(self, settings: ContrastBatch, clips: int) -> None:
        """Replace the inputs by `clips` clips of other settings. Only those of the implementation are kept."""
        batch = replace(settings, clips=clips)
        visible = batch.visible()
        if visible is not None and batch.hidden is not None:
            known_true(batch.hidden, batch.hidden.numel() - visible.numel())
        self.step.loss = self.step.implementation.make_loss(batch, self.model, self.precision)
        self.step.inputs = self.step.implementation.inputs(batch)
        _forget_forms(batch)

    @property
    def model(self) -> nn.Module:
        return self.step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.step.optimizer


def make_predictable(name: str, batch: ContrastBatch, precision: str = "bf16") -> Callable[[], PredictableContrast]:
    """Returns a function that builds the named step, for `fake_step`. The tensors of `batch` are made there."""
    return lambda: PredictableContrast(name, replace(batch), precision)


def _forget_forms(batch: ContrastBatch) -> None:
    """Drop the other forms of the inputs: the step keeps its own, and no pipeline has all forms on the device."""
    for form in ("clip", "frames"):
        vars(batch.pixels).pop(form, None)
    vars(batch).pop("hidden", None)
