"""One device or many: Hugging Face Accelerate runs DDP, FSDP2 or DeepSpeed as `accelerate launch` configures it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from .._optional import require
from .precision import resolve_precision


def make_accelerator(precision: str, trackers: Sequence[str] = (), logging_dir: Path | None = None) -> Any:
    """Make the `accelerate.Accelerator` of a run.

    Args:
        precision: one of `PRECISIONS`.
        trackers: names of Accelerate's trackers; `RunLog` starts them.
        logging_dir: folder for the files of trackers.

    Returns:
        The accelerator, on the device and in the process group that `accelerate launch` or torchrun configured.

    Raises:
        ValueError: the precision is unknown.
        ImportError: Accelerate is missing.
    """
    accelerate = require("accelerate")
    # A forward pass uses each weight once, so autocast's cache would only keep copies of them.
    autocast = accelerate.utils.AutocastKwargs(cache_enabled=False)
    folder = None if logging_dir is None else str(logging_dir)
    return accelerate.Accelerator(
        mixed_precision="bf16" if resolve_precision(precision) == "bf16" else "no",
        kwargs_handlers=[autocast],
        log_with=list(trackers) or None,
        project_config=accelerate.utils.ProjectConfiguration(logging_dir=folder),
    )


@contextmanager
def last_part(accelerator: Any, model: nn.Module, is_last: bool) -> Iterator[None]:
    """Run forward and backward of one part of a batch: ranks add up their gradients in the last part only.

    Args:
        accelerator: the `accelerate.Accelerator` that `make_accelerator` returned.
        model: as `accelerator.prepare` returned it.
        is_last: whether the optimizer steps after this part.
    """
    accelerator.sync_gradients = is_last  # DeepSpeed reads it: its backward also steps
    if is_last:
        yield
    else:
        with accelerator.no_sync(model):
            yield
