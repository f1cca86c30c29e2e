"""Two processes draw stochastic depth as one does, and no process waits for a branch that another has dropped."""

import pytest

from tests.models.distributed import CASES
from tests.two_processes import run_in_two_processes


@pytest.mark.slow
def test_two_processes() -> None:
    process = run_in_two_processes("tests.models.distributed")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == 2 * len(CASES)
