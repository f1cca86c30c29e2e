"""Alignment steps: teachers, masks, student, losses, backward and AdamW, of all implementations, round by round.

As in benchmarks/model/test_step.py. All cases have the same number of masked clips: with M masks per clip the published
code has each clip M times, and ours once.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.align.contenders import AlignCase
from benchmarks.align.sizes import ALIGN_SIZES
from benchmarks.model.contenders import StepContenders, in_turns
from benchmarks.settings import Settings

MASKS = (1, 2, 4)


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """The 1B student with the published clips of a GPU; on a CPU a small student and small teachers, few clips."""
    cases = [
        AlignCase(size, precision, masks, clips, settings.device)
        for size in settings.sizes(gpu=["1b"], cpu=["small"])
        for clips in [settings.options.batch_size or ALIGN_SIZES[size].clips]
        for precision in settings.precisions(gpu=["bf16"])
        for masks in MASKS
        if clips % masks == 0
    ]
    return in_turns([(case, (case.reference, "videomae_fast")) for case in cases], settings)


@pytest.fixture(scope="module")
def contenders(settings: Settings) -> Iterator[StepContenders]:
    contenders = StepContenders(settings.options.memory_budget)
    yield contenders
    contenders.close()


def test_step(benchmark: Any, contenders: StepContenders, case: AlignCase, name: str, samples: int) -> None:
    contenders.time(benchmark, case, name, samples)
