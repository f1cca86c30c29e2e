"""Checks that stop a run with a report when its loss or weights are not finite, before it saves them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor


class NonFiniteLossError(RuntimeError):
    """The loss or a weight became NaN or infinite; earlier checkpoints are intact."""


def check_finite(
    rows: list[dict[str, Any]], checkpoints: list[Path], explain: Callable[[int], str] = lambda step: ""
) -> None:
    """Stop a run whose loss is NaN or infinite.

    Args:
        rows: rows of the log with "step", "loss" and "lr".
        checkpoints: complete checkpoints, oldest first; the error names the last one.
        explain: gives the cause of the loss of a step, if it is known; see `Recipe.explain`.

    Raises:
        NonFiniteLossError: the loss of a row is not finite.
    """
    for row in rows:
        if not math.isfinite(row["loss"]):
            reason = f"the loss of step {row['step']} is {row['loss']}, at learning rate {row['lr']:.2e}"
            raise stopped(reason, checkpoints, explain(row["step"]))


def check_finite_weights(
    model: nn.Module, step: int, checkpoints: list[Path], everywhere: Callable[[bool], bool] = bool
) -> None:
    """Stop a run whose last step made a weight NaN or infinite, so that the weights are not saved.

    Args:
        model: the model whose parameters are checked. Of a sharded one, each process checks its own shards.
        step: finished steps, for the error.
        checkpoints: complete checkpoints, oldest first; the error names the last one.
        everywhere: gives whether something holds in all processes, so that all stop; see `parallel.everywhere`.

    Raises:
        NonFiniteLossError: a parameter is not finite.
    """
    own = [value.to_local() if isinstance(value, DTensor) else value for value in model.parameters()]
    if not everywhere(all(bool(value.isfinite().all()) for value in own)):
        raise stopped(f"weights are not finite after step {step}", checkpoints)


def stopped(reason: str, checkpoints: list[Path], cause: str = "") -> NonFiniteLossError:
    """The error that ends a run.

    Args:
        reason: what is not finite.
        checkpoints: complete checkpoints, oldest first; the error names the last one.
        cause: a sentence; "" for advice about the settings of the run.
    """
    last = checkpoints[-1] if checkpoints else "none"
    advice = cause or "A lower lr, clip_grad or precision fp32 may help."
    return NonFiniteLossError(f"{reason}. The run stopped; its last checkpoint is {last}. {advice}")
