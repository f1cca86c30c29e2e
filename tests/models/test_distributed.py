"""Two processes do as one: stochastic depth drops what one drops and nobody waits, FSDP2 in bf16 has one's loss, and
dual encoders draw negatives among all pairs."""

from types import ModuleType

import pytest

from tests.models import distributed, dual_distributed, fsdp2
from tests.two_processes import run_in_two_processes


@pytest.mark.slow
@pytest.mark.parametrize("module", [distributed, dual_distributed, fsdp2])
def test_two_processes(module: ModuleType) -> None:
    process = run_in_two_processes(module.__name__)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("agree:") == 2 * len(module.CASES)
