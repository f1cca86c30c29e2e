"""The memory of a training step on a GPU, predicted: the same bytes on every machine. No time is taken.

`total_mib` is the whole peak, and the sum of the fields named after categories; `peak_mib` leaves out what lies on the
device before the step: weights, optimizer state, inputs. `--size small --size base` is the short form.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness.counts import count
from benchmarks.memory.predictable import bytes_to_device_per_clip, make_predictable
from benchmarks.model.contenders import StepCase
from benchmarks.settings import SIZES, Settings
from videomae_fast.memory import MemoryFigures, MemoryProfile
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step
from videomae_fast.models import CONFIGS

CLIPS = 128
DUAL_MASKING = (
    "published",
    "published, checkpointed",
    "published + SDPA",
    "published, fused",
    "videomae_fast",
    "videomae_fast, checkpointed",
    "videomae_fast, crops",
)
WITHOUT_DECODER_MASK = ("published", "Hugging Face", "Hugging Face, fused", "videomae_fast")  # VideoMAE V1


def parametrize(settings: Settings) -> tuple[str, list[tuple[StepCase, str]], list[str]]:
    """Every predictable implementation of every case: published sizes, 128 clips, bf16 if the options do not say."""
    options = settings.options
    cases = [
        StepCase(size, precision, mask_ratio, decoder_mask_ratio, options.batch_size or CLIPS, DEVICE)
        for size in options.size or CONFIGS
        for precision in options.precision or ["bf16"]
        for mask_ratio in settings.mask_ratios
        for decoder_mask_ratio in settings.decoder_mask_ratios
    ]
    rows = [
        (case, variant)
        for case in cases
        for variant in (DUAL_MASKING if case.decoder_mask_ratio else WITHOUT_DECODER_MASK)
    ]
    return "case, variant", rows, [f"{case.size}-{case}-{variant}" for case, variant in rows]


@pytest.mark.benchmark(group="memory")
def test_predicted_memory(case: StepCase, variant: str, benchmark: BenchmarkFixture) -> None:
    record = benchmark.pedantic(predict, (case, variant), rounds=1)
    assert record["total_mib"] > record["peak_mib"] > 0
    benchmark.extra_info["record"] = record


def predict(case: StepCase, variant: str) -> dict[str, Any]:
    """The record of one implementation in one case."""
    config = SIZES[case.size]
    make = make_predictable(variant, config, case.batch_size, case.mask_ratio, case.decoder_mask_ratio, case.precision)
    with fake_step(make) as step:
        with MemoryProfile(step.model, step.optimizer) as profile:
            step()
        counts = count(step, DEVICE)
        to_device = bytes_to_device_per_clip(step)
    return {
        "suite": "memory",
        "name": case.size,
        "case": str(case),
        "variant": variant,
        "predicted": True,
        **memory_fields(profile.figures),
        "bytes_to_device_per_clip": to_device,
        "kernel_launches": counts.kernel_launches,
        "syncs": counts.syncs,
    }


def memory_fields(figures: MemoryFigures) -> dict[str, Any]:
    """The fields of a record that say where the memory of a step goes."""
    parts = {f"{category.split()[0]}_mib": size / 2**20 for category, size in figures.breakdown.items()}
    return {
        "peak_mib": figures.step_bytes / 2**20,
        "total_mib": figures.peak_bytes / 2**20,
        **parts,
        "peak_in": f"{figures.peak.phase}: {figures.peak.module}",
    }
