"""Before a run on a GPU whose step no closed form covers: whether it fits, and what is made again in backward.

Pre-training and fine-tuning decide by a closed form (`videomae_fast.models.memory_budget`). Where a text or language
model may be any of transformers, there is none: the step itself is predicted, which takes some seconds, and is kept for
later runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch

from ..memory import MemoryFigures
from ..models.memory_budget import ALLOWANCE, SLACK
from .step_memory import open_cache

R = TypeVar("R")
Say = Callable[[str], None]


class StepFit(ABC, Generic[R]):
    """What a run says of the memory of its step, and how its video tower then computes its blocks.

    Args:
        recipe: of the run, whose `group` is known.
        capacity: bytes of the GPU.
        say: prints a line.
    """

    def __init__(self, recipe: R, capacity: int, say: Say) -> None:
        self.recipe: Any = recipe
        self.usable, self.say, self.cache = capacity - ALLOWANCE, say, open_cache()

    @abstractmethod
    def figures(self, recipe: R) -> MemoryFigures:
        """Of the step of a recipe with the settings of the run, but for `recompute`."""

    @abstractmethod
    def report(self, figures: MemoryFigures) -> None:
        """Say what the step takes and what would fit."""

    def chosen(self) -> Any:
        """The options of the video tower, with another `recompute` if that was "auto"."""
        options = self.recipe.config.model
        found = self.figures(self.recipe)
        keeps = options.train != "none" and not options.activation_checkpointing  # what `recompute` decides of
        if options.recompute == "auto" and keeps:
            without = replace(options, recompute="never")
            figures = self.figures(type(self.recipe)(replace(self.recipe.config, model=without)))
            if self.peak(figures) <= self.usable * (1 - SLACK):
                options, found = without, figures
        if self.recipe.group is None or self.recipe.group.rank() == 0:
            self.report(found)
        return options

    def held(self, figures: MemoryFigures) -> int:
        """Bytes that a step does not show: an average of the weights, and the gradients in DDP's buckets."""
        averaged = self.recipe.ema_decay > 0
        return averaged * figures.breakdown["parameters"] + self.several() * figures.breakdown["optimizer state"] // 2

    def several(self) -> bool:
        """Whether the run has several processes."""
        group = self.recipe.group
        return group is not None and group.size() > 1

    def peak(self, figures: MemoryFigures) -> int:
        """Bytes of the step, and what it does not show."""
        return figures.peak_bytes + self.held(figures)

    def line(self, figures: MemoryFigures) -> str:
        """What the step takes, in GiB."""
        return f"predicted memory of a step: {_gib(self.peak(figures))} of the {_gib(self.usable)} GiB that can be used"


def fit_step(kind: type[StepFit[R]], recipe: R, device: torch.device, say: Say) -> Any:
    """On a GPU, say what the step of a run is predicted to take and what would fit, and decide `recompute`.

    A step that is predicted not to fit is run nevertheless. Random numbers are as before.

    Args:
        kind: of the recipe.
        recipe: of the run, whose `group` is known.
        device: of the run.
        say: prints a line.

    Returns:
        The options of the video tower, with another `recompute` if that was "auto".
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return kind(recipe, torch.cuda.get_device_properties(device).total_memory, say).chosen()
    except RuntimeError as error:  # of operations that know no fake tensors, in somebody's model
        say(f"memory of this step cannot be predicted: {str(error).partition(chr(10))[0]}")
        options: Any = recipe
        return options.config.model


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
