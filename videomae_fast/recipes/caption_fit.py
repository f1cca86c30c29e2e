"""Before training on answers on a GPU: whether its step fits, and what is made again in backward."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..memory import MemoryFigures
from .caption_memory import predictor
from .caption_options import CaptionTowerOptions
from .step_fit import Say, StepFit, fit_step

if TYPE_CHECKING:
    from .caption import Captioning


def fit_caption(recipe: "Captioning", device: torch.device, say: Say) -> CaptionTowerOptions:
    """On a GPU, say what the step of a run is predicted to take, and decide `recompute`.

    Nothing is done on a CPU, as before the other recipes. A step that is predicted not to fit is run nevertheless.

    Args:
        recipe: of the run, whose `group` is known.
        device: of the run.
        say: prints a line.

    Returns:
        The options of the video tower, with another `recompute` if that was "auto".

    Raises:
        ValueError: as `build_captioner_of_size`.
        TypeError: as `build_captioner_of_size`.
        ImportError: transformers or, for adapters, peft is missing.
    """
    options: CaptionTowerOptions = recipe.config.model
    folder = recipe.config.language.language_model
    if device.type != "cuda" or not folder or not Path(folder).exists():  # what builds the captioner says what is wrong
        return options
    options = fit_step(_CaptionFit, recipe, device, say)
    return options


class _CaptionFit(StepFit["Captioning"]):
    def figures(self, recipe: "Captioning") -> MemoryFigures:
        with predictor(recipe.config, self.cache) as predict:
            return predict(recipe.config.optimizer.batch_size)

    def report(self, figures: MemoryFigures) -> None:
        """What would fit is not searched: each prediction of a large language model takes half a minute."""
        self.say(f"{self.line(figures)}, with {self.recipe.config.optimizer.batch_size} clips at a time")
        if self.peak(figures) > self.usable:
            self.say(f"this step is predicted not to fit: take {self._advice()}")

    def _advice(self) -> str:
        """What a run could change, the least first."""
        config, options = self.recipe.config, []
        if config.optimizer.batch_size > 1:
            options.append("a smaller --batch-size and a larger --accumulate")
        if config.connector.inject == "prefix" and not config.language.recompute_language:
            options.append("--recompute-language")
        if config.model.train != "none" and not config.model.activation_checkpointing:
            options.append("--activation-checkpointing")
        return " or ".join([*options, "fewer --max-tokens or --num-frames"])
