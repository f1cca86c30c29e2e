"""Two processes do as one: stochastic depth drops what one drops and nobody waits, FSDP2 in bf16 has one's loss, and
dual encoders draw negatives among all pairs."""

from types import ModuleType

import pytest

from tests.models import distributed, dual_distributed, fsdp2
from tests.two_processes import run_in_two_processes


@pytest.mark.slow
@pytest.mark.parametrize("module", [distributed, dual_distributed, fsdp2])
def test_two_processes(module: ModuleType) -> None:
    assert run_in_two_processes(["-m", module.__name__]).count("agree:") == 2 * len(module.CASES)
