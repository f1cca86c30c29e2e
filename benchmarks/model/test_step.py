"""Training steps: forward, loss, backward and AdamW, of all implementations in turn.

A test is one implementation's share of the samples, in one turn; every implementation has had its first turn before any
has its second. `benchmarks.harness.results.collect` puts the samples of all turns together.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.baselines.published_repo import register_published_repo
from benchmarks.model.lineup import Case, Lineup
from benchmarks.settings import Settings

TURNS = 3


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    if settings.options.published_repo is not None:
        register_published_repo(settings.options.published_repo)
    cases = [
        Case(size, precision, mask_ratio, decoder_mask_ratio, settings.batch_size(cpu=8), settings.device)
        for size in settings.sizes(gpu=["base"], cpu=["small"])
        for precision in settings.precisions(gpu=["bf16"])
        for mask_ratio in settings.encoder_ratios
        for decoder_mask_ratio in settings.decoder_ratios
    ]
    # A round is a step; turns share them, the first ones taking what is left over.
    rounds = settings.rounds(gpu=30, cpu=3)
    shares = [share for turn in range(TURNS) if (share := len(range(turn, rounds, TURNS)))]
    found = [
        (case, name, share, turn)
        for case in cases
        for turn, share in enumerate(shares, start=1)
        for name in case.implementations
    ]
    ids = [f"{case.size}, {case}-{name}-turn {turn}" for case, name, _, turn in found]
    return "case, name, rounds", [row[:3] for row in found], ids


@pytest.fixture(scope="module")
def lineup(settings: Settings) -> Iterator[Lineup]:
    lineup = Lineup(settings.options.memory_budget)
    yield lineup
    lineup.close()


def test_step(benchmark: Any, lineup: Lineup, case: Case, name: str, rounds: int) -> None:
    step, record = lineup.turn(case, name)
    benchmark.group = f"ViT-{case.size}: {case}"
    benchmark.extra_info["record"] = record
    if step is None:
        benchmark.pedantic(lambda: None)
    else:
        # A step nobody times moves a GPU's clocks up again and fills its allocator; a CPU needs none.
        warmup = 1 if case.device.type == "cuda" else 0
        benchmark.pedantic(step, setup=step.forget_gradients, rounds=rounds, warmup_rounds=warmup)
