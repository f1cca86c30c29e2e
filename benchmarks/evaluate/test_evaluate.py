"""Evaluation views and feature windows: processor time, frames read and bytes, the published procedures and ours.

A test makes all clips of the videos once. One thread, and processor time rather than time of day, as in
benchmarks/loader. The model's time is not part of it: it is the same for both.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.evaluate.contenders import Case, Contenders, counters, figures
from benchmarks.evaluate.views import VARIANTS, ViewCase
from benchmarks.evaluate.windows import WindowCase
from benchmarks.loader.videos import ORIGINAL, SIZES
from benchmarks.settings import Settings

ROUNDS = 3


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """The smallest and the largest size, or the user's own videos."""
    rounds, own = settings.rounds(gpu=ROUNDS, cpu=ROUNDS), settings.options.videos
    names = [own.name] if own is not None else [SIZES[0], ORIGINAL]
    cases = [kind(name, rounds, own) for kind in (ViewCase, WindowCase) for name in names]
    rows = [(case, variant, number) for case in cases for number in range(rounds) for variant in VARIANTS]
    ids = [f"{case.name}, {case}-{name}-round {number}" for case, name, number in rows]
    return "case, variant, round_number", rows, ids


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contenders]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Contenders(tmp_path_factory.mktemp("videos"))
    torch.set_num_threads(threads)


@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_evaluate(benchmark: Any, contenders: Contenders, case: Case, variant: str, round_number: int) -> None:
    maker, record = contenders.ready(case, variant)
    benchmark.group = f"{case.name}: {case}"
    before = counters(maker)
    benchmark.pedantic(maker)
    benchmark.extra_info["record"] = record | figures(maker, before)
