"""Fine-tuning steps: forward, loss, backward and AdamW, of all implementations, round by round.

As in benchmarks/model/test_step.py. Every step of a run drops the same branches, so its time is that of one draw.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.finetune.contenders import FinetuningCase
from benchmarks.finetune.steps import CLIPS
from benchmarks.model.contenders import StepContenders, in_turns
from benchmarks.settings import Settings

CPU_CLIPS = 2  # of all tokens: a step of one clip takes seconds
IMPLEMENTATIONS = ("published", "published + SDPA + compile", "videomae_fast")


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """ViT-B with the clips of a published GPU; on a CPU ViT-S with few clips."""
    cases = [
        FinetuningCase(size, precision, settings.options.batch_size or clips, settings.device)
        for size in settings.sizes(gpu=["base"], cpu=["small"])
        for clips in [CLIPS[size] if settings.on_gpu else CPU_CLIPS]
        for precision in settings.precisions(gpu=["bf16"])
    ]
    return in_turns([(case, IMPLEMENTATIONS) for case in cases], settings)


@pytest.fixture(scope="module")
def contenders(settings: Settings) -> Iterator[StepContenders]:
    contenders = StepContenders(settings.options.memory_budget)
    yield contenders
    contenders.close()


def test_step(benchmark: Any, contenders: StepContenders, case: FinetuningCase, name: str, samples: int) -> None:
    contenders.time(benchmark, case, name, samples)
