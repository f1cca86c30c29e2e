"""Before contrastive pre-training on a GPU: whether its step fits, what else would, and what is made again in backward.

Pre-training and fine-tuning decide by a closed form (`videomae_fast.models.memory_budget`). A text tower may be any
encoder of transformers, which no closed form covers: here the step itself is predicted, which takes some seconds, and
is kept for later runs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..memory import MemoryFigures, largest_batches
from ..models.memory_budget import ALLOWANCE, SLACK
from .contrast_memory import longest_clip, predictor
from .contrast_options import VideoTowerOptions
from .step_memory import open_cache

if TYPE_CHECKING:
    from .contrast import Contrast

Say = Callable[[str], None]


def fit_contrast(recipe: "Contrast", device: torch.device, say: Say) -> VideoTowerOptions:
    """On a GPU, say what the step of a run is predicted to take and what would fit, and decide `recompute`.

    Nothing is done on a CPU, as before the other recipes. A step that is predicted not to fit is run nevertheless.

    Args:
        recipe: of the run, whose `group` is known.
        device: of the run.
        say: prints a line.

    Returns:
        The options of the video tower, with another `recompute` if that was "auto".

    Raises:
        ValueError: as `build_sizes`.
        ImportError: transformers is missing.
    """
    options = recipe.config.model
    if device.type != "cuda" or not recipe.config.text.text_model:  # without one, the towers say what is wrong
        return options
    try:
        with torch.random.fork_rng(devices=[]):
            return _Fit(recipe, torch.cuda.get_device_properties(device).total_memory, say).chosen()
    except RuntimeError as error:  # of operations that know no fake tensors, in somebody's text model
        say(f"memory of this step cannot be predicted: {str(error).partition(chr(10))[0]}")
        return options


class _Fit:
    def __init__(self, recipe: "Contrast", capacity: int, say: Say) -> None:
        self.recipe, self.usable, self.say, self.cache = recipe, capacity - ALLOWANCE, say, open_cache()
        optimizer = recipe.config.optimizer
        self.clips = optimizer.part_size
        self.pairs = optimizer.batch_size if optimizer.micro_batch else None

    def chosen(self) -> VideoTowerOptions:
        options = self.recipe.config.model
        found = self._figures(self.recipe)
        if options.recompute == "auto" and not options.activation_checkpointing:
            without = replace(options, recompute="never")
            figures = self._figures(self._with(without))
            if self._peak(figures) <= self.usable * (1 - SLACK):
                options, found = without, figures
        if self.recipe.group is None or self.recipe.group.rank() == 0:
            self._report(found)
        return options

    def _with(self, options: VideoTowerOptions) -> "Contrast":
        return type(self.recipe)(replace(self.recipe.config, model=options))

    def _figures(self, recipe: "Contrast") -> MemoryFigures:
        with predictor(recipe, self.pairs, self.cache) as predict:
            return predict(self.clips)

    def _held(self, figures: MemoryFigures) -> int:
        """Bytes that a step does not show: an average of the weights, and the gradients in DDP's buckets."""
        averaged = self.recipe.ema_decay > 0
        return averaged * figures.breakdown["parameters"] + self._several() * figures.breakdown["optimizer state"] // 2

    def _several(self) -> bool:
        group = self.recipe.group
        return group is not None and group.size() > 1

    def _peak(self, figures: MemoryFigures) -> int:
        return figures.peak_bytes + self._held(figures)

    def _report(self, figures: MemoryFigures) -> None:
        """What would fit is of a step that makes norms and GELUs again, if the run may decide so."""
        usable, clips = self.usable - self._held(figures), self.clips
        fits = self._largest_part(usable)
        longest = longest_clip(self.recipe, clips, usable, pairs=self.pairs, cache=self.cache)
        peak = self._peak(figures)
        self.say(
            f"predicted memory of a step: {_gib(peak)} of the {_gib(self.usable)} GiB that can be used, with {clips} "
            f"pairs at a time; largest that fits: {fits} pairs at a time, or clips of {longest} frames"
            f"{self._left_out()}"
        )
        if peak > self.usable:
            self.say(f"this step is predicted not to fit: {self._advice(fits, longest)}")

    def _left_out(self) -> str:
        """What other processes send, as far as it is large."""
        gathers = self.recipe.fuses and self.recipe.config.fusion.negatives == "global"
        return "; the tokens that --negatives global gathers are not in it" if gathers and self._several() else ""

    def _largest_part(self, usable: int) -> int:
        """Pairs that the towers may run on at a time; with `micro_batch`, at most those of the batch."""
        with predictor(self.recipe, self.pairs, self.cache) as predict:
            if self.pairs is not None and predict(self.pairs).peak_bytes <= usable:
                return self.pairs
            return largest_batches(predict, {"card": usable}, (self.clips, 2 * self.clips))["card"]

    def _advice(self, fits: int, longest: int) -> str:
        pairs = self.recipe.config.optimizer.batch_size
        part = max((size for size in range(1, fits + 1) if pairs % size == 0), default=0)
        options = [f"--micro-batch {part}"] * (part > 0) + [f"--num-frames {longest}"] * (longest > 0)
        return f"take {' or '.join([*options, 'a larger --mask-ratio or --train last:K'])}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
