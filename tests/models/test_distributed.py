"""Two processes draw stochastic depth as one does, and no process waits for a branch that another has dropped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.distributed import CASES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), *sys.path]))
    }
    process = subprocess.run(
        [*launcher, "tests.models.distributed"], capture_output=True, text=True, env=variables, cwd=ROOT, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == 2 * len(CASES)
