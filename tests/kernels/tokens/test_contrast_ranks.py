"""Processes that share a batch have the loss and the gradients of one: see contrast_ranks.py."""

import os
import subprocess
import sys

import pytest

from tests.kernels.tokens import contrast_ranks
from tests.two_processes import ROOT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_ranks_do_as_one() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *filter(None, sys.path)])
    process = subprocess.run(
        [sys.executable, "-m", contrast_ranks.__name__],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=ROOT,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == contrast_ranks.RANKS * (len(contrast_ranks.CASES) + 1)
    assert process.stdout.count("refused:") == contrast_ranks.RANKS
