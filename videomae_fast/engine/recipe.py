"""What the loop asks of a training task: its model, batches and step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Recipe(ABC):
    """A training task, as the loop needs it. recipes/pretrain.py is one."""

    name: str  # name of the command; the progress bar shows it
    numbers: tuple[str, ...] = ()  # names of the numbers that `step` returns beside the loss: columns of log.csv
    config: Any  # sections `optimizer` and `run` as in recipes/options.py, `save` and `check_continues`
    workers = 0  # data-loading processes of each training process
    cheaper = "Make a batch cheaper to load"  # the advice where no number of workers can keep up
    samples_per_epoch: int  # a batch consists of samples, for example videos
    clips_per_sample = 1
    ema_decay = 0.0  # of the average of the weights, which is evaluated and saved beside them; 0: no average

    @abstractmethod
    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        """Make the model and its optimizer, and set `samples_per_epoch`. The loop has set the seed before.

        Args:
            device: the loop moves the model to this device afterwards.
            say: prints a line, in the main process only.

        Returns:
            The model and its optimizer.
        """

    @abstractmethod
    def order(self, samples_per_step: int) -> dict[str, Any]:
        """All that the order of samples depends on besides the configuration. A run only continues with the same.

        Args:
            samples_per_step: samples of an optimizer step, over all ranks and parts.

        Returns:
            Values by name, which JSON can hold.
        """

    @abstractmethod
    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[Any, None, None]:
        """The batches of one rank: each has `samples` of the section `optimizer`.

        Args:
            rank: number of this process, in [0, world_size).
            world_size: number of training processes.
            start_step: finished steps; the first batch is for the next one.
            num_steps: number of batches.

        Returns:
            A generator of batches; closing it ends its workers. `seconds` of a batch is the time that making it took.
        """

    @abstractmethod
    def parts(self, batch: Any, count: int, device: torch.device) -> Iterable[Any]:
        """Split a batch and move it to the device.

        Args:
            batch: an item of `batches`.
            count: number of parts.
            device: the device of the model.

        Returns:
            `count` parts. A part carries all that its step must know about the whole batch.

        Raises:
            FloatingPointError: a part cannot be made, since a figure is not finite; the loop ends the run with the
                message.
        """

    @abstractmethod
    def step(self, model: nn.Module, part: Any, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one part. Over the parts of a batch, losses and numbers add up to those of the batch.

        Args:
            model: as `accelerator.prepare` returned it.
            part: an item of `parts`.
            number: number of the step, counted from 0.

        Returns:
            The loss, a scalar, and a scalar for each name in `numbers`.
        """

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        """Evaluate the model on this rank's share of the evaluation set.

        Args:
            model: as `accelerator.prepare` returned it, or the average of the weights, in evaluation mode.
            rank: number of this process, in [0, world_size).
            world_size: number of training processes.

        Returns:
            For each figure, by name, Σ weight · value and Σ weight: (2,) float64.
        """
        raise NotImplementedError(f"recipe {self.name} has no evaluation")

    def explain(self, step: int) -> str:
        """Find out why the loss of a step was not finite. Each process asks this once, before the run ends.

        Args:
            step: number of the step, counted from 1, as the log counts.

        Returns:
            The cause, as sentences of the error; empty if there is none that this process can tell. The error has
            those of all processes.
        """
        return ""

    def files(self) -> dict[str, str]:
        """Text files of every checkpoint beside the engine's own: {name: text}."""
        return {}

    def report(self) -> list[str]:
        """Lines to print when the run ends."""
        return []
