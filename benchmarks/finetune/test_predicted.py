"""The memory and the FLOPs of a fine-tuning step on a GPU, predicted: the same on every machine. No time is taken.

Memory is that of the batch that a GPU has in the published scripts. FLOPs are counted in a large batch, where the
number of clips that a branch keeps is hardly rounded, and are those of one clip.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.finetune.contenders import FinetuningCase
from benchmarks.finetune.predictable import PREDICTABLE, make_predictable
from benchmarks.finetune.steps import CLIPS
from benchmarks.harness.counts import count
from benchmarks.memory.test_predicted import memory_fields
from benchmarks.roofline.work import ATTENTION, MATRIX, Work, totals
from benchmarks.settings import Settings
from videomae_fast.memory import MemoryProfile
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step
from videomae_fast.models import CONFIGS

COUNTED_CLIPS = 1000


def parametrize(settings: Settings) -> tuple[str, list[tuple[FinetuningCase, str]], list[str]]:
    """Every predictable implementation of every published size, bf16, if the options do not say otherwise."""
    options = settings.options
    cases = [
        FinetuningCase(size, precision, options.batch_size or CLIPS[size], DEVICE)
        for size in options.size or CONFIGS
        for precision in options.precision or ["bf16"]
    ]
    rows = [(case, variant) for case in cases for variant in PREDICTABLE]
    return "case, variant", rows, [f"{case.size}-{case}-{variant}" for case, variant in rows]


@pytest.mark.benchmark(group="finetune")
def test_predicted(case: FinetuningCase, variant: str, benchmark: BenchmarkFixture) -> None:
    record = benchmark.pedantic(predict, (case, variant), rounds=1)
    assert record["total_mib"] > record["peak_mib"] > 0 and record["tflop_per_clip"] > 0
    benchmark.extra_info["record"] = record


def predict(case: FinetuningCase, variant: str) -> dict[str, Any]:
    """The record of one implementation in one case."""
    with fake_step(make_predictable(variant, case.config, case.batch_size, case.precision)) as step:
        with MemoryProfile(step.model, step.optimizer) as profile:
            step()
        counts = count(step, DEVICE)
        step.set_batch_size(COUNTED_CLIPS)
        with Work(step.model) as work:
            step()
    flops = {part: totals(work.of_part(part))["tflop"] / COUNTED_CLIPS for part in (MATRIX, ATTENTION)}
    return {
        "suite": case.suite,
        "name": case.size,
        "case": str(case),
        "variant": variant,
        "predicted": True,
        "tflop_per_clip": sum(flops.values()),
        "tflop_per_clip_by_part": flops,
        **memory_fields(profile.figures),
        "kernel_launches": counts.kernel_launches,
        "syncs": counts.syncs,
    }
