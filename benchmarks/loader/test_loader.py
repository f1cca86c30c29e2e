"""Loading: processor time and bytes of a training clip, the published pipelines and ours, round by round.

First the clips of pre-training, then those of fine-tuning, which are augmented.

A test is one batch of one loader; each round has other clips. One thread, and processor time rather than time of day,
so that other work on the machine counts little. Workers, pinned memory and the copy to the GPU are not measured.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.loader.contenders import LoaderCase, LoaderContenders
from benchmarks.loader.finetuning import FinetuningCase
from benchmarks.loader.videos import ORIGINAL, SIZES
from benchmarks.settings import Settings

VIDEOS, CROPS_PER_VIDEO, ROUNDS = 8, 4, 6
FINETUNING_VIDEOS, FINETUNING_CROPS = 4, 2  # published num_sample; a published clip of a large video takes most of 1 s


def parametrize(settings: Settings) -> tuple[str, list[Any], list[str]]:
    """Every size with the published crops_per_video, the first size also with one; or the user's own videos.

    Fine-tuning: the smallest and the largest size, or the user's own videos.
    """
    rounds, wanted = settings.rounds(gpu=ROUNDS, cpu=ROUNDS), settings.options.batch_size
    videos, labelled = wanted or VIDEOS, wanted or FINETUNING_VIDEOS
    own = settings.options.videos
    if own is not None:
        cases = [
            LoaderCase(own.name, rounds, videos, CROPS_PER_VIDEO, own),
            FinetuningCase(own.name, rounds, labelled, FINETUNING_CROPS, own),
        ]
    else:
        cases = [
            *(LoaderCase(size, rounds, videos, CROPS_PER_VIDEO) for size in SIZES),
            LoaderCase(SIZES[0], rounds, videos, 1),
            *(FinetuningCase(size, rounds, labelled, FINETUNING_CROPS) for size in (SIZES[0], ORIGINAL)),
        ]
    rows = [(case, variant, number) for case in cases for number in range(rounds) for variant in case.variants]
    return (
        "case, variant, round_number",
        rows,
        [f"{case.name}, {case}-{name}-round {number}" for case, name, number in rows],
    )


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoaderContenders]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield LoaderContenders(tmp_path_factory.mktemp("videos"))
    torch.set_num_threads(threads)


@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_loader(
    benchmark: Any, contenders: LoaderContenders, case: LoaderCase, variant: str, round_number: int
) -> None:
    loader, record = contenders.ready(case, variant)
    benchmark.group = f"{case.name}: {case}"
    benchmark.pedantic(loader, (case.pairs(loader.dataset, round_number),))
    benchmark.extra_info["record"] = record | loader.figures(case.clips)
