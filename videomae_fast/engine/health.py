"""What happens when numbers go bad: the run stops with a report, and saves nothing that is not finite."""

import math
from pathlib import Path
from typing import Any

from torch import nn

HINT = "A lower lr, clip_grad or precision fp32 may help."


class NonFiniteLossError(RuntimeError):
    """The loss or a weight became NaN or infinite; the checkpoints from before are intact."""


def check_finite(rows: list[dict[str, Any]], checkpoints: list[Path]) -> None:
    """Stop a run whose loss is NaN or infinite.

    Args:
        rows: log rows with "step", "loss" and "lr".
        checkpoints: complete checkpoints, oldest first; the error names the last one.

    Raises:
        NonFiniteLossError: the loss of a row is not finite.
    """
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise NonFiniteLossError(
                f"the loss of step {row['step']} is {row['loss']}, at learning rate {row['lr']:.2e}. The run stopped; "
                f"its last checkpoint is {checkpoints[-1] if checkpoints else 'none'}. {HINT}"
            )


def check_finite_weights(model: nn.Module, step: int, checkpoints: list[Path]) -> None:
    """Stop a run rather than save weights that its last step has ruined.

    Args:
        model: its parameters are looked at.
        step: finished steps, for the error.
        checkpoints: complete checkpoints, oldest first; the error names the last one.

    Raises:
        NonFiniteLossError: a parameter is not finite.
    """
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise NonFiniteLossError(
            f"weights are not finite after step {step}. The run stopped; its last checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}. {HINT}"
        )
