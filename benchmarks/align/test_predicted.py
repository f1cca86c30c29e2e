"""The memory and the FLOPs of an alignment step on a GPU, predicted: the same on every machine. No time is taken.

Memory is that of the batch that a GPU has in the published script, and of as many masked clips with several masks per
clip. FLOPs are those of a masked clip. Weights, gradients and AdamW's state of the student are float32 on one GPU in
both. `largest_batch` leaves that state out, because the published scripts shard it over all GPUs. It is searched for
with one mask per clip, and not for our checkpointed step: hundreds of clips fit, whose teachers take minutes to count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.align.contenders import AlignCase
from benchmarks.align.predictable import PREDICTABLE, PredictableAlignment, make_predictable
from benchmarks.align.sizes import ALIGN_SIZES, PUBLISHED_SIZES
from benchmarks.align.test_step import MASKS
from benchmarks.baselines.published import sinusoid_table
from benchmarks.harness.counts import count
from benchmarks.memory.test_predicted import memory_fields
from benchmarks.roofline.work import ATTENTION, MATRIX, Work, totals
from benchmarks.settings import Settings
from videomae_fast.memory import MemoryFigures, MemoryProfile
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step


def parametrize(settings: Settings) -> tuple[str, list[tuple[AlignCase, str]], list[str]]:
    """Both students of the published stage 1, bf16: all implementations with one mask per clip, ours with more."""
    options = settings.options
    rows = [
        (AlignCase(size, "bf16", masks, clips, DEVICE), variant)
        for size in options.size or PUBLISHED_SIZES
        for clips in [options.batch_size or ALIGN_SIZES[size].clips]
        for masks in MASKS
        for variant in (PREDICTABLE if masks == 1 else PREDICTABLE[1:])
        if clips % masks == 0
    ]
    return "case, variant", rows, [f"{case.size}-{case}-{variant}" for case, variant in rows]


@pytest.mark.benchmark(group="align")
def test_predicted(case: AlignCase, variant: str, benchmark: BenchmarkFixture) -> None:
    record = benchmark.pedantic(predict, (case, variant), rounds=1)
    assert record["total_mib"] > record["peak_mib"] > 0
    assert record["tflop_per_clip"] > record["teacher_tflop_per_clip"] > 0
    benchmark.extra_info["record"] = record


def predict(case: AlignCase, variant: str) -> dict[str, Any]:
    """The record of one implementation in one case."""
    size, masks = ALIGN_SIZES[case.size], case.masks
    sinusoid_table(size.video.num_tokens, size.video.encoder_dim)  # keeps its results, which must not be fake ones
    with fake_step(make_predictable(variant, size, case.batch_size // masks, masks)) as step:
        figures = _figures(step)
        with Work(step.model) as work, _work_of_teachers(step) as teachers:
            counts = count(step, DEVICE)
        searched = masks == 1 and variant != PREDICTABLE[-1]
        largest = largest_batch(step, figures, case.batch_size, size.usable) if searched else None
    return {
        "suite": case.suite,
        "name": case.size,
        "case": str(case),
        "variant": variant,
        "predicted": True,
        "masks": masks,
        "tflop_per_clip": _tflop(work) / case.batch_size,
        "teacher_tflop_per_clip": _tflop(teachers) / case.batch_size,
        **memory_fields(figures),
        "kernel_launches": counts.kernel_launches,
        "syncs": counts.syncs,
        "largest_batch": largest,
    }


def largest_batch(step: PredictableAlignment, figures: MemoryFigures, clips: int, usable: int) -> int:
    """Clips of a step that fits in `usable` bytes without the optimizer's state; 0 if none does.

    The batch is found on a line through two batches, and predicted itself. Where it does not fit, the next line goes
    through it: the teachers run part by part, which bends the curve. `figures` are those of `clips`.
    """

    def peak(found: MemoryFigures) -> int:
        return found.peak_bytes - found.breakdown["optimizer state"]

    def predicted(batch: int) -> int:
        step.set_batch_size(batch)
        return peak(_figures(step))

    known, other = peak(figures), clips // 2 or 2
    slope = max(1, (known - predicted(other)) // (clips - other))
    batch = clips + (usable - known) // slope
    while batch > 0 and (found := predicted(batch)) > usable:
        slope = max(1, (found - known) // (batch - clips)) if batch != clips else slope
        batch = min(batch - 1, clips + (usable - known) // slope)
    return max(0, batch)


def _figures(step: PredictableAlignment) -> MemoryFigures:
    with MemoryProfile(step.model, step.optimizer) as profile:
        step()
    return profile.figures


@contextmanager
def _work_of_teachers(step: PredictableAlignment) -> Iterator[Work]:
    """Counts what the teachers do within the block."""
    teach, work = step.model.teach, Work(step.model)

    def counted(*args: Any) -> Any:
        with work:
            return teach(*args)  # type: ignore[operator]

    with mock.patch.object(step.model, "teach", counted):
        yield work


def _tflop(work: Work) -> float:
    """Of matrix products and attention."""
    return sum(totals(work.of_part(part))["tflop"] for part in (MATRIX, ATTENTION))
