"""The records of a run: CSV files that survive interruptions, Accelerate's trackers, the line of the progress bar."""

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._files import atomic_write, disk_errors
from .._optional import require
from .._text import printable_lines

COLUMNS = ("step", "epoch", "loss", "lr", "clips_per_second", "data_wait", "peak_memory_mib")
LOG, EVALUATIONS = "log.csv", "eval.csv"
PROJECT = "videomae-fast"
# Accelerate's trackers, with the package that each needs.
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
}


def tracker_names(track: str) -> list[str]:
    """The trackers that `--track` names.

    Args:
        track: names separated by commas, or "none".

    Returns:
        The names, each once, in the order given.

    Raises:
        ValueError: `TRACKERS` lacks a name.
    """
    names = list(dict.fromkeys(name.strip() for name in track.split(",") if name.strip()))
    if names == ["none"]:
        return []
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"track must be none, or some of {', '.join(TRACKERS)}; got '{name}'")
    return names


def check_trackers(names: Sequence[str]) -> None:
    """Check before a run begins that its trackers can work.

    Args:
        names: keys of `TRACKERS`.

    Raises:
        ImportError: the package of a tracker is missing, or the installed Accelerate does not know the tracker.
    """
    accelerate = require("accelerate")
    for name in names:
        try:
            importlib.import_module(TRACKERS[name])
        except ImportError as error:
            hint = "'videomae-fast[train]'" if name == "tensorboard" else TRACKERS[name].replace("_", "-")
            raise ImportError(
                f"--track {name} needs the package '{TRACKERS[name]}' ({error}): pip install {hint}"
            ) from error
        if name not in {str(known) for known in accelerate.utils.LoggerType}:
            raise ImportError(f"--track {name} needs a newer Accelerate than {accelerate.__version__}")


def read_log(output: Path, name: str = LOG) -> list[dict[str, str]]:
    """The complete rows of a run's log.csv or eval.csv.

    Args:
        output: folder of the run.
        name: `LOG` or `EVALUATIONS`.

    Returns:
        A dictionary per row, oldest first; no rows if the file does not exist.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / name
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            # A killed run may leave half a line.
            rows = [row for row in reader if reader.fieldnames and row[reader.fieldnames[-1]]]
        for row in rows:
            [int(row["step"]), *map(float, row.values())]
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, delete or move it: {type(error).__name__}: {error}") from error
    return rows


class _Csv:
    """A CSV file of a new or continued run. Opening it keeps the rows up to `start_step` and drops later rows."""

    def __init__(self, output: Path, name: str, columns: Sequence[str], start_step: int) -> None:
        rows = [row for row in read_log(output, name) if int(row["step"]) <= start_step]
        self.path = output / name
        with disk_errors(self.path), atomic_write(self.path) as partial, partial.open("w", newline="") as file:
            kept = csv.DictWriter(file, columns, extrasaction="ignore")
            kept.writeheader()
            kept.writerows(rows)
        self.file = self.path.open("a", newline="")
        self.writer = csv.DictWriter(self.file, columns)

    def write(self, rows: list[dict[str, Any]]) -> None:
        with disk_errors(self.path):
            self.writer.writerows(rows)
            self.file.flush()

    def close(self) -> None:
        with disk_errors(self.path):
            self.file.close()


class RunLog:
    """`log.csv`, `eval.csv` and the trackers of a run; only the main process has one."""

    def __init__(
        self, accelerator: Any, output: Path, start_step: int, numbers: Sequence[str] = (), settings: dict | None = None
    ) -> None:
        """Open the files, keep the rows up to `start_step`, and start the trackers of `accelerator`.

        Args:
            accelerator: the `accelerate.Accelerator` that `make_accelerator` returned.
            output: folder of the run.
            start_step: finished steps of the run.
            numbers: names of further columns of log.csv, after `COLUMNS`.
            settings: the options of the run by name, for trackers that show them.
        """
        self.accelerator, self.output, self.start_step = accelerator, output, start_step
        self.steps = _Csv(output, LOG, (*COLUMNS, *numbers), start_step)
        self.evaluations: _Csv | None = None
        by_tracker = {
            "tensorboard": {"purge_step": start_step + 1},
            "wandb": {"name": output.name, "dir": str(output)},
            "mlflow": {"run_name": output.name},
        }
        accelerator.init_trackers(PROJECT, init_kwargs=by_tracker)
        for tracker in accelerator.trackers:
            if tracker.name != "tensorboard":  # TensorBoard would write them into a second event file
                tracker.store_init_configuration(settings or {})

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows of steps, as `Timing.flush` returns them."""
        self.steps.write(rows)
        for row in rows:
            shown = {f"train/{name}": value for name, value in row.items() if name not in COLUMNS[:2]}
            self._track(shown, row["step"])

    def write_evaluation(self, step: int, results: dict[str, float]) -> None:
        """Append a row to eval.csv.

        Args:
            step: finished steps.
            results: figures by name; every call has the same names.
        """
        if self.evaluations is None:
            self.evaluations = _Csv(self.output, EVALUATIONS, ("step", *results), self.start_step)
        self.evaluations.write([{"step": step, **results}])
        self._track({f"eval/{name}": value for name, value in results.items()}, step)

    def _track(self, values: dict[str, Any], step: int) -> None:
        with disk_errors(self.output / "tensorboard"):  # the tracker that writes files here
            self.accelerator.log(values, step=step)

    def close(self) -> None:
        """Close the files; `accelerator.end_training` ends the trackers."""
        self.steps.close()
        if self.evaluations is not None:
            self.evaluations.close()


def say(line: str) -> None:
    """Print a line above the progress bar; what is not printable in it is escaped."""
    require("tqdm").tqdm.write(printable_lines(line))


def summary(row: dict[str, Any]) -> str:
    """The row of a step, as the progress bar shows it."""
    return (
        f"loss {row['loss']:.4f}, {row['clips_per_second']:.1f} clips/s, "
        f"data wait {row['data_wait']:.0%}, peak {row['peak_memory_mib']:,.0f} MiB"
    )
