"""The exponential moving average of a model's weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .._optional import require

FILE = "model_ema.safetensors"  # in a checkpoint, beside the weights of the step


class AveragedWeights:
    """The average of the weights over the steps of a run; the average after the first step is its weights.

        average ← decay·average + (1 − decay)·weight

    Args:
        accelerator: `accelerate.Accelerator` of the run; its device holds the average.
        model: the bare model, before `accelerator.prepare`.
        decay: in (0, 1).

    Attributes:
        model: the model with the average as its weights.

    Raises:
        ValueError: the accelerator shards weights, so that no process holds them all.
    """

    def __init__(self, accelerator: Any, model: nn.Module, decay: float) -> None:
        kind = accelerator.distributed_type.value
        if kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
            raise ValueError(f"ema_decay needs whole weights in every process, but {kind} shards them: leave it at 0")
        self.source = model
        self.model: nn.Module = AveragedModel(model, accelerator.device).module
        self._average = get_ema_multi_avg_fn(decay)
        self._begun = False  # AveragedModel counts on the device, and asks it in every step

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step into the average."""
        average, weights = (
            [parameter.detach() for parameter in model.parameters()] for model in (self.model, self.source)
        )
        if self._begun:
            self._average(average, weights, 1)
        else:
            torch._foreach_copy_(average, weights)
        self._begun = True

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint, in the layout of the model's own weights."""
        state: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        require("safetensors.torch").save_file(state, folder / FILE, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """Read the average from a checkpoint.

        Raises:
            FileNotFoundError: the run of the checkpoint kept no average.
        """
        self.model.load_state_dict(require("safetensors.torch").load_file(folder / FILE))
        self._begun = True  # the next step is averaged, not copied
