"""Training steps: forward, loss, backward and AdamW, of all implementations, round by round.

A test is one implementation's share of the samples in one round; all implementations finish a round before the next one
begins. `benchmarks.harness.results.collect` puts the samples of all rounds together.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.baselines.published.checkout import register_published_repo
from benchmarks.model.contenders import StepCase, StepContenders
from benchmarks.settings import Settings

ROUNDS = 3


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    if settings.options.published_repo is not None:
        register_published_repo(settings.options.published_repo)
    cases = [
        StepCase(size, precision, mask_ratio, decoder_mask_ratio, settings.batch_size(cpu=8), settings.device)
        for size in settings.sizes(gpu=["base"], cpu=["small"])
        for precision in settings.precisions(gpu=["bf16"])
        for mask_ratio in settings.mask_ratios
        for decoder_mask_ratio in settings.decoder_mask_ratios
    ]
    # A sample is a step; rounds share the samples, and the first rounds take the remainder.
    samples = settings.rounds(gpu=30, cpu=3)
    shares = [share for number in range(ROUNDS) if (share := len(range(number, samples, ROUNDS)))]
    found = [
        (case, name, share, number)
        for case in cases
        for number, share in enumerate(shares, start=1)
        for name in case.implementations
    ]
    ids = [f"{case.size}, {case}-{name}-round {number}" for case, name, _, number in found]
    return "case, name, samples", [row[:3] for row in found], ids


@pytest.fixture(scope="module")
def contenders(settings: Settings) -> Iterator[StepContenders]:
    contenders = StepContenders(settings.options.memory_budget)
    yield contenders
    contenders.close()


def test_step(benchmark: Any, contenders: StepContenders, case: StepCase, name: str, samples: int) -> None:
    step, record = contenders.ready(case, name)
    benchmark.group = f"ViT-{case.size}: {case}"
    benchmark.extra_info["record"] = record
    if step is None:
        benchmark.pedantic(lambda: None)
    else:
        # A step nobody times moves a GPU's clocks up again and fills its allocator; a CPU needs none.
        warmup = 1 if case.device.type == "cuda" else 0
        benchmark.pedantic(step, setup=step.forget_gradients, rounds=samples, warmup_rounds=warmup)
