"""Set-up shared by all tests: without a GPU, Triton is imported once in its interpreter mode.

Triton decides at its first import whether its own library functions are interpreted, so this has to happen
before any test module imports it; the knob (Triton 3.4) makes every kernel decorated later agree. Then
TRITON_INTERPRET is "0": an op on CPU tensors runs its plain-torch reference, unless a test asks for the
interpreter (fixture `backend` of tests/kernels).
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each, in their subprocesses, too
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton

        if hasattr(triton, "knobs"):  # from 3.4 on; before, the variable is read at every decoration
            triton.knobs.runtime.interpret = True
    except ImportError:
        pass
    os.environ["TRITON_INTERPRET"] = "0"


def pytest_configure(config: pytest.Config) -> None:
    """Tell `tests.fuzz.examples` whether the slow tests were asked for."""
    marks = config.getoption("markexpr")
    os.environ["VIDEOMAE_FUZZ"] = "slow" if "slow" in marks and "not slow" not in marks else "default"
