"""Two processes with a fused model, under DDP and FSDP2, compute what the plain model does alone."""

import pytest

from tests.interop.distributed import CASES
from tests.two_processes import run_in_two_processes

pytest.importorskip("transformers")


@pytest.mark.slow
def test_two_processes() -> None:
    assert run_in_two_processes(["-m", "tests.interop.distributed"]).count("agree:") == 2 * len(CASES)
