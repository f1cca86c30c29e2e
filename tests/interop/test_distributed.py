"""Two processes with a fused model, under DDP and FSDP2, compute what the plain model does alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.distributed import CASES

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    # In front of the path goes what the tests themselves import: transformers may lie outside site-packages.
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), *sys.path]))
    }
    process = subprocess.run(
        [*launcher, "tests.interop.distributed"], capture_output=True, text=True, env=variables, cwd=ROOT, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == 2 * len(CASES)
