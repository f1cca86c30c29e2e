"""Contrastive steps: both towers, loss, backward and AdamW, of all implementations, round by round.

As in benchmarks/model/test_step.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.contrast.contenders import ContrastCase
from benchmarks.model.contenders import StepContenders, in_turns
from benchmarks.settings import Settings

MASK_RATIOS = (0.0, 0.75)


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """ViT-B and 64 frames on a GPU; on a CPU ViT-S and 16 frames, and few clips."""
    batch_size = settings.options.batch_size or (16 if settings.on_gpu else 4)
    cases = [
        ContrastCase(size, precision, 64 if settings.on_gpu else 16, ratio, last_only, batch_size, settings.device)
        for size in settings.sizes(gpu=["base"], cpu=["small"])
        for precision in settings.precisions(gpu=["bf16"])
        for ratio in settings.options.mask_ratio or MASK_RATIOS
        for last_only in (False, True)
    ]
    return in_turns([(case, case.implementations) for case in cases], settings)


@pytest.fixture(scope="module")
def contenders(settings: Settings) -> Iterator[StepContenders]:
    contenders = StepContenders(settings.options.memory_budget)
    yield contenders
    contenders.close()


def test_step(benchmark: Any, contenders: StepContenders, case: ContrastCase, name: str, samples: int) -> None:
    contenders.time(benchmark, case, name, samples)
