"""The memory and the FLOPs of a contrastive step on a GPU, predicted: the same on every machine. No time is taken.

Memory against the share of hidden tokens and the number of frames: the peak of a step on `CLIPS` clips, what a further
clip takes (`mib_per_clip`), and the clips that fit on an A100 with 80 GB. Weights, gradients and AdamW's state are
float32 on one GPU. The text tower is trained in all, and of the same size.
"""

from functools import lru_cache
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contrast.predictable import PredictableContrast, make_predictable
from benchmarks.contrast.sizes import CONTRAST_SIZES
from benchmarks.contrast.steps import IMPLEMENTATIONS, ContrastBatch
from benchmarks.harness.counts import count
from benchmarks.memory.test_predicted import memory_fields
from benchmarks.roofline.work import ATTENTION, MATRIX, Work, totals
from benchmarks.settings import Settings
from videomae_fast.memory import MemoryFigures, MemoryProfile, largest_batches
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step

CLIPS = 32
MASK_RATIOS = (0.0, 0.5, 0.75, 0.9)
Row = tuple[str, int, str, float]


def parametrize(settings: Settings) -> tuple[str, list[Row], list[str]]:
    """ViT-B, bf16: every implementation, number of frames and mask ratio."""
    rows = [
        (size, frames, variant, ratio)
        for size in settings.options.size or ["base"]
        for frames in CONTRAST_SIZES[size].frames
        for variant in IMPLEMENTATIONS
        for ratio in MASK_RATIOS
    ]
    return "size, frames, variant, ratio", rows, [f"{s}-{f} frames-ratio {r}-{v}" for s, f, v, r in rows]


@pytest.mark.benchmark(group="contrast")
def test_predicted(size: str, frames: int, variant: str, ratio: float, benchmark: BenchmarkFixture) -> None:
    found = benchmark.pedantic(predict, (size, frames, variant), rounds=1)
    record = found[ratio]
    assert record["total_mib"] > record["peak_mib"] > 0 and record["mib_per_clip"] > 0
    benchmark.extra_info["record"] = record


@lru_cache(maxsize=1)
def predict(size: str, frames: int, variant: str) -> dict[float, dict[str, Any]]:
    """The records of one implementation by mask ratio. They share a model, which takes as long to make as a step."""
    batches = {
        ratio: ContrastBatch(CONTRAST_SIZES[size], frames, ratio, CLIPS, DEVICE) for ratio in reversed(MASK_RATIOS)
    }
    with fake_step(make_predictable(variant, batches[MASK_RATIOS[-1]])) as step:
        return {ratio: _record(step, size, variant, batch) for ratio, batch in batches.items()}


def _record(step: PredictableContrast, size: str, variant: str, batch: ContrastBatch) -> dict[str, Any]:
    known: dict[int, MemoryFigures] = {}

    def figures(clips: int) -> MemoryFigures:
        if clips not in known:
            step.set_batch(batch, clips)
            with MemoryProfile(step.model, step.optimizer) as profile:
                step()
            known[clips] = profile.figures
        return known[clips]

    at = figures(CLIPS)
    with Work(step.model) as work:
        counts = count(step, DEVICE)
    further = figures(2 * CLIPS).peak_bytes - at.peak_bytes
    fits = largest_batches(figures, {"card": batch.size.usable}, known=(CLIPS, 2 * CLIPS))
    height, width = batch.config.image_size
    return {
        "suite": "contrast",
        "name": size,
        "case": f"{CLIPS} clips of {batch.frames_per_clip}x{height}x{width}, bf16, mask ratio {batch.mask_ratio}",
        "variant": variant,
        "predicted": True,
        "frames": batch.frames_per_clip,
        "mask_ratio": batch.mask_ratio,
        "tflop_per_clip": sum(totals(work.of_part(part))["tflop"] for part in (MATRIX, ATTENTION)) / CLIPS,
        **memory_fields(at),
        "mib_per_clip": further / CLIPS / 2**20,
        "kernel_launches": counts.kernel_launches,
        "syncs": counts.syncs,
        "largest_batch": fits["card"],
    }
