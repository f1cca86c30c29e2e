"""Ranks add up gradients once per optimizer step."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from videomae_fast.engine.parallel import last_part, make_accelerator
from videomae_fast.engine.precision import resolve_precision


class Ranks:
    """Stands in for Accelerate in a group of processes, and records the calls."""

    def __init__(self) -> None:
        self.sync_gradients = True
        self.seen: list[object] = []

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        self.seen.append("quiet")
        yield
        self.seen.append("quiet no more")


@pytest.mark.parametrize("count", [1, 3])
def test_only_the_last_part_is_added_up(count: int) -> None:
    ranks = Ranks()
    for number in range(1, count + 1):
        with last_part(ranks, nn.Linear(1, 1), number == count):
            ranks.seen.append(ranks.sync_gradients)
    assert ranks.seen == ["quiet", False, "quiet no more"] * (count - 1) + [True]
    assert ranks.sync_gradients


@pytest.mark.parametrize(("precision", "expected"), [("bf16", "bf16"), ("fp32", "no")])
def test_precision(precision: str, expected: str) -> None:
    assert resolve_precision(precision) == precision
    assert make_accelerator(precision).mixed_precision == expected
    assert resolve_precision("auto") == ("bf16" if torch.cuda.is_available() else "fp32")


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision must be one of auto, bf16, fp32, got 'fp8'"):
        resolve_precision("fp8")
