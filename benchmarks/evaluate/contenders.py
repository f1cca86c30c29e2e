"""What makes the clips of one case at a time, checked when the case begins."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluate.views import OURS, VARIANTS, OurViews, PublishedViews, ViewCase
from benchmarks.evaluate.windows import OurWindows, PublishedWindows, WindowCase
from benchmarks.harness.measure import device_name

Case = ViewCase | WindowCase
Maker = PublishedViews | OurViews | PublishedWindows | OurWindows


class Contenders:
    """The published procedure and ours for one case at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # for videos
        self.case: Case | None = None

    def ready(self, case: Case, variant: str) -> tuple[Maker, dict[str, Any]]:
        """What makes all clips of a round, and what its record begins with."""
        if case != self.case:
            self.error = case.check(self.folder)
            self.case, self.makers = case, {name: case.maker(name, self.folder) for name in VARIANTS}
        record = {
            "suite": "evaluate",
            "name": case.name,
            "case": str(case),
            "variant": variant,
            "predicted": False,
            "processor": device_name(torch.device("cpu")),
        }
        return self.makers[variant], record | ({"error": self.error} if variant == OURS else {})


def figures(maker: Maker, before: tuple[int, int, int]) -> dict[str, float]:
    """Of the calls since `counters` were `before`, in one of which all clips are made."""
    clips, frames, sent = (now - then for now, then in zip(counters(maker), before, strict=True))
    return {"clips": clips, "frames_read": frames, "bytes_to_device_per_clip": sent / clips}


def counters(maker: Maker) -> tuple[int, int, int]:
    """Clips made, frames read and bytes for the device, of all calls."""
    return maker.clips, maker.frames_read, maker.sent
