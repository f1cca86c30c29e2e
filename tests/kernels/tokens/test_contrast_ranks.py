"""Processes that share a batch have the loss and the gradients of one: see contrast_ranks.py."""

import pytest

from tests.forks import run_forks
from tests.kernels.tokens import contrast_ranks


@pytest.mark.slow
def test_ranks_do_as_one() -> None:
    (process,) = run_forks([["-m", contrast_ranks.__name__]], [{}])
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == contrast_ranks.RANKS * (len(contrast_ranks.CASES) + 1)
    assert process.stdout.count("refused:") == contrast_ranks.RANKS
