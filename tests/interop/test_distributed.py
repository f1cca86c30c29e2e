"""Two processes with a fused model, under DDP and FSDP2, compute what the plain model does alone."""

import pytest

from tests.interop.distributed import CASES
from tests.two_processes import run_in_two_processes

pytest.importorskip("transformers")


@pytest.mark.slow
def test_two_processes() -> None:
    process = run_in_two_processes("tests.interop.distributed")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == 2 * len(CASES)
