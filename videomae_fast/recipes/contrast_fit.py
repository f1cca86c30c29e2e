"""Before contrastive pre-training on a GPU: whether its step fits, what else would, what is made again in backward."""

from typing import TYPE_CHECKING

import torch

from ..memory import MemoryFigures, largest_batches
from .contrast_memory import longest_clip, predictor
from .contrast_options import VideoTowerOptions
from .step_fit import Say, StepFit, fit_step

if TYPE_CHECKING:
    from .contrast import Contrast


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
    options: VideoTowerOptions = recipe.config.model
    if device.type != "cuda" or not recipe.config.text.text_model:  # without one, the towers say what is wrong
        return options
    options = fit_step(_ContrastFit, recipe, device, say)
    return options


class _ContrastFit(StepFit["Contrast"]):
    def __init__(self, recipe: "Contrast", capacity: int, say: Say) -> None:
        super().__init__(recipe, capacity, say)
        optimizer = recipe.config.optimizer
        self.clips = optimizer.part_size
        self.pairs = optimizer.batch_size if optimizer.micro_batch else None

    def figures(self, recipe: "Contrast") -> MemoryFigures:
        with predictor(recipe, self.pairs, self.cache) as predict:
            return predict(self.clips)

    def report(self, figures: MemoryFigures) -> None:
        """What would fit is of a step that makes norms and GELUs again, if the run may decide so."""
        usable, clips = self.usable - self.held(figures), self.clips
        fits = self._largest_part(usable)
        longest = longest_clip(self.recipe, clips, usable, pairs=self.pairs, cache=self.cache)
        self.say(
            f"{self.line(figures)}, with {clips} pairs at a time; largest that fits: {fits} pairs at a time, or clips "
            f"of {longest} frames{self._left_out()}"
        )
        if self.peak(figures) > self.usable:
            self.say(f"this step is predicted not to fit: {self._advice(fits, longest)}")

    def _left_out(self) -> str:
        """What other processes send, as far as it is large."""
        gathers = self.recipe.fuses and self.recipe.config.fusion.negatives == "global"
        return "; the tokens that --negatives global gathers are not in it" if gathers and self.several() else ""

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
