"""`python -m benchmarks.memory`: where the memory of a pre-training step goes, here and in the published code.

Predictions for a GPU; where torch sees a GPU, measured peaks stand beside them. `videomae-fast memory` reports on our
model alone, and needs no checkout of the repository.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.memory.predictable import PredictableStep, make_predictable
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.figures import mib
from videomae_fast.memory.predict import measure_step
from videomae_fast.models import get_config
from videomae_fast.recipes.step_memory import (
    CHECKPOINTED,
    KNOWN_BATCHES,
    OURS,
    PACKAGES,
    MemoryReport,
    StepSettings,
    open_cache,
)

PUBLISHED = "published"
COMPARED = (PUBLISHED, OURS)
ALL = (PUBLISHED, "published, checkpointed", "published + SDPA", OURS, CHECKPOINTED)


def memory_report(
    settings: StepSettings,
    batch_size: int,
    *,
    everything: bool = False,
    cached: bool = True,
    picture: Path | None = None,
) -> str:
    """The report as Markdown, the published code first.

    Args:
        settings: model, masks and precision.
        batch_size: clips per step.
        everything: also activation checkpointing, fused attention, and other mask ratios.
        cached: use and fill the user's cache of predictions.
        picture: also draw the memory of the steps into this file, in the format of its suffix.

    Returns:
        Markdown: breakdown, largest batches and, with `everything`, the effect of the masks.

    Raises:
        ValueError, ImportError, FileNotFoundError: as `MemoryReport.text`.
    """
    names = ALL if everything else COMPARED
    report = MemoryReport(
        names,
        settings,
        batch_size,
        _maker,
        open_cache((*PACKAGES, Path(__file__).parents[1])) if cached else None,
        masked=COMPARED if everything else (),
    )
    return report.text(picture, _measured(names, settings, batch_size))


def _maker(
    name: str, settings: StepSettings, batch_size: int = KNOWN_BATCHES[0], device: torch.device = DEVICE
) -> Callable[[], PredictableStep]:
    ratios = settings.mask_ratio, settings.decoder_mask_ratio
    return make_predictable(name, get_config(settings.model), batch_size, *ratios, settings.precision, device)


def _measured(names: tuple[str, ...], settings: StepSettings, batch_size: int) -> dict[str, list[str]]:
    """A row of the peaks of the same steps on the GPU; none without one."""
    if not torch.cuda.is_available():
        return {}
    device, cells = torch.device("cuda", 0), []
    for name in names:
        try:
            cells.append(mib(measure_step(_maker(name, settings, batch_size, device)(), device)))
        except torch.OutOfMemoryError:
            cells.append("out of memory")
        torch.cuda.empty_cache()
    return {f"peak, measured on {torch.cuda.get_device_name()}": cells}
