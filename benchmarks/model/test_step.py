"""Training steps: forward, loss, backward and AdamW, of all implementations, round by round.

A test is one implementation's share of the samples in one round; all implementations finish a round before the next one
begins. `benchmarks.harness.results.collect` puts the samples of all rounds together.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.baselines.published.checkout import register_published_repo
from benchmarks.model.contenders import StepCase, StepContenders, in_turns
from benchmarks.settings import Settings


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
    return in_turns([(case, case.implementations) for case in cases], settings)


@pytest.fixture(scope="module")
def contenders(settings: Settings) -> Iterator[StepContenders]:
    contenders = StepContenders(settings.options.memory_budget)
    yield contenders
    contenders.close()


def test_step(benchmark: Any, contenders: StepContenders, case: StepCase, name: str, samples: int) -> None:
    contenders.time(benchmark, case, name, samples)
