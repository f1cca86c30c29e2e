"""Starts a test module of this repository as two processes that know of each other, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_in_two_processes(module: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` twice under torchrun, with the sources and packages of this process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    # In front of the path goes what the tests themselves import: transformers may lie outside site-packages.
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), *sys.path]))
    }
    return subprocess.run([*launcher, module], capture_output=True, text=True, env=variables, cwd=ROOT, timeout=120)
