"""What a run writes down: a CSV line per step, TensorBoard scalars, the progress bar's figures."""

import csv
import math
import os
from pathlib import Path
from typing import Any

from torch import nn

from .._optional import require

COLUMNS = ("step", "epoch", "loss", "lr", "clips_per_second", "data_wait", "peak_memory_mib")


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; checkpoints from before are intact."""


def read_log(output: Path) -> list[dict[str, str]]:
    """The complete rows of a run's log.csv, with the fields COLUMNS; empty if there is none."""
    path = output / "log.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row[COLUMNS[-1]]]  # a killed run may leave half a line


class RunLog:
    """`log.csv` and TensorBoard events in the output folder; continues those of the steps before `start_step`."""

    def __init__(self, output: Path, start_step: int) -> None:
        rows = [row for row in read_log(output) if int(row["step"]) <= start_step]
        unfinished = output / "log.csv.part"
        with unfinished.open("w", newline="") as file:
            kept = csv.DictWriter(file, COLUMNS)
            kept.writeheader()
            kept.writerows(rows)
        os.replace(unfinished, output / "log.csv")  # at no moment are the earlier rows missing
        self.file = (output / "log.csv").open("a", newline="")
        self.csv = csv.DictWriter(self.file, COLUMNS)
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=start_step + 1)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows with the fields COLUMNS, one per step."""
        self.csv.writerows(rows)
        self.file.flush()
        for row in rows:
            for name in COLUMNS[2:]:
                self.board.add_scalar(f"train/{name}", row[name], row["step"])

    def close(self) -> None:
        """Flush and close both files."""
        self.file.close()
        self.board.close()


def check_finite(rows: list[dict[str, Any]], checkpoints: list[Path]) -> None:
    """Raise NonFiniteLossError if a row's loss is NaN or infinite."""
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise NonFiniteLossError(
                f"the loss of step {row['step']} is {row['loss']}, at learning rate {row['lr']:.2e}. The run stopped; "
                f"its last checkpoint is {checkpoints[-1] if checkpoints else 'none'}. "
                "A lower lr, clip_grad or precision fp32 may help."
            )


def check_finite_weights(model: nn.Module, step: int, checkpoints: list[Path]) -> None:
    """Raise NonFiniteLossError rather than save weights that the last step has ruined."""
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise NonFiniteLossError(
            f"weights are not finite after step {step}. The run stopped; its last checkpoint is "
            f"{checkpoints[-1] if checkpoints else 'none'}. A lower lr, clip_grad or precision fp32 may help."
        )


def summary(row: dict[str, Any]) -> str:
    """A row as the progress bar shows it."""
    return (
        f"loss {row['loss']:.4f}, {row['clips_per_second']:.1f} clips/s, "
        f"data wait {row['data_wait']:.0%}, peak {row['peak_memory_mib']:,.0f} MiB"
    )
