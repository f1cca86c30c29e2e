"""Loading: processor time and bytes of a training clip, the published pipeline and ours in turn.

A test is one batch of one loader; each turn has other clips. One thread, and processor time rather than time of day, so
that what else the machine does counts little. Workers, pinned memory and the copy to the GPU are in neither.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.loader.lineup import VARIANTS, Case, Lineup
from benchmarks.loader.videos import SIZES
from benchmarks.settings import Settings

VIDEOS, REPEATS, TURNS = 8, 4, 6


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """Every size with the published crops_per_video, the first also without; or the user's own videos."""
    turns, videos = settings.rounds(gpu=TURNS, cpu=TURNS), settings.options.batch_size or VIDEOS
    own = settings.options.videos
    if own is not None:
        cases = [Case(own.name, turns, videos, REPEATS, own)]
    else:
        cases = [*(Case(size, turns, videos, REPEATS) for size in SIZES), Case(SIZES[0], turns, videos, 1)]
    rows = [(case, variant, turn) for case in cases for turn in range(turns) for variant in VARIANTS]
    return "case, variant, turn", rows, [f"{case.name}, {case}-{name}-turn {turn}" for case, name, turn in rows]


@pytest.fixture(scope="module")
def lineup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lineup]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Lineup(tmp_path_factory.mktemp("videos"))
    torch.set_num_threads(threads)


@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_loader(benchmark: Any, lineup: Lineup, case: Case, variant: str, turn: int) -> None:
    loader, record = lineup.turn(case, variant)
    benchmark.group = f"{case.name}: {case}"
    benchmark.pedantic(loader, (case.pairs(loader.dataset, turn),))
    benchmark.extra_info["record"] = record | loader.figures(case.clips)
