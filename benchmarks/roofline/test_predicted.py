"""The time of a training step on A100, H100 and H200, predicted from its operations. No time is taken.

Three figures of a GPU's time: at datasheet rates, at achieved (assumed) rates, and, apart from both, the host's time to
launch the kernels. A step takes the larger of the GPU's and the host's time. Compiled code cannot be counted before it
is compiled: "published + SDPA" stands for it, with the time of matrix products and attention, which no fusion avoids.
"""

from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.inputs import Inputs
from benchmarks.memory.predictable import make_predictable
from benchmarks.model.contenders import StepCase
from benchmarks.ops.clip import crop_bytes
from benchmarks.roofline.devices import GPUS, HOST_SECONDS_PER_LAUNCH, Rates
from benchmarks.roofline.traffic import CropBytes
from benchmarks.roofline.work import PARTS, Work, milliseconds, totals
from benchmarks.settings import SIZES, Settings
from videomae_fast.memory.fake_cuda import DEVICE
from videomae_fast.memory.predict import fake_step

BATCH_SIZES = (128, 32)
CROPPED = "videomae_fast, crops"
VARIANTS = ("published + SDPA", "videomae_fast", CROPPED)  # after the published code as its scripts run it


def parametrize(settings: Settings) -> tuple[str, list[tuple[StepCase, str]], list[str]]:
    """ViT-B and ViT-g, bf16, 128 and 32 clips, both masks, if the options do not say otherwise."""
    options = settings.options
    cases = [
        StepCase(size, precision, mask_ratio, decoder_mask_ratio, batch_size, DEVICE)
        for size in options.size or ("base", "giant")
        for precision in options.precision or ["bf16"]
        for mask_ratio in settings.mask_ratios
        for decoder_mask_ratio in options.decoder_mask_ratio or [0.5]
        for batch_size in ([options.batch_size] if options.batch_size else BATCH_SIZES)
    ]
    rows = [(case, variant) for case in cases for variant in (case.reference, *VARIANTS)]
    return "case, variant", rows, [f"{case.size}-{case}-{variant}" for case, variant in rows]


@pytest.mark.benchmark(group="roofline")
def test_predicted_time(case: StepCase, variant: str, benchmark: BenchmarkFixture) -> None:
    record = benchmark.pedantic(predict, (case, variant), rounds=1)
    assert record["tflop"] > 0 and record["gb"] > 0 and sum(record["parts"]["ms"]["H100"]["datasheet"].values()) > 0
    benchmark.extra_info["record"] = record


def predict(case: StepCase, variant: str) -> dict[str, Any]:
    """The record of one implementation in one case: the step's work, and its time on every GPU by part."""
    work = count_work(case, variant)
    return {
        "suite": "roofline",
        "name": case.size,
        "case": str(case),
        "variant": variant,
        "predicted": True,
        "clips": case.batch_size,
        **figures(work, {gpu.name: gpu.rates for gpu in GPUS}),
    }


def count_work(case: StepCase, variant: str) -> Work:
    """Run the step on fake tensors and count."""
    config = SIZES[case.size]
    make = make_predictable(variant, config, case.batch_size, case.mask_ratio, case.decoder_mask_ratio, case.precision)
    crops = _crop_bytes(case) if variant == CROPPED else None
    with fake_step(make) as step, Work(step.model, crops) as work:
        step()
    return work


def figures(work: Work, gpus: dict[str, dict[str, Rates]]) -> dict[str, Any]:
    """Totals, the host's milliseconds, and `parts`: TFLOP, GB, launches and, by GPU and kind of rates, milliseconds."""
    everything = list(work.operations.items())
    parts = {part: work.of_part(part) for part in PARTS}
    by_figure: dict[str, Any] = {
        figure: {part: totals(rows)[figure] for part, rows in parts.items() if rows} for figure in totals([])
    }
    by_figure["ms"] = {
        gpu: {
            kind: {part: milliseconds(rows, rate) for part, rows in parts.items() if rows}
            for kind, rate in rates.items()
        }
        for gpu, rates in gpus.items()
    }
    host_ms = totals(everything)["kernel_launches"] * HOST_SECONDS_PER_LAUNCH * 1e3
    return {**totals(everything), "host_ms": host_ms, "parts": by_figure}


def _crop_bytes(case: StepCase) -> CropBytes:
    """Of the visible and the predicted tokens: boxes and masks are made where nothing is fake."""
    inputs = Inputs(SIZES[case.size], case.batch_size, torch.device("cpu"), case.mask_ratio, case.decoder_mask_ratio)
    plan = inputs.plan()
    return {index.shape[1]: crop_bytes(inputs.config, inputs.boxes, index) for index in (plan.visible, plan.predicted)}
