"""Set-up shared by all tests: without a GPU, Triton is imported once in its interpreter mode.

Triton decides at its first import whether its own library functions are interpreted, so this has to happen
before any test module imports it; the knob (Triton 3.4) makes every kernel decorated later agree. Then
TRITON_INTERPRET is "0": an op on CPU tensors runs its plain-torch reference, unless a test asks for the
interpreter (fixture `backend` of tests/kernels).
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

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
    config.pluginmanager.register(OptionalPackages())


class OptionalPackages:
    """Skips the tests of a package that is optional and not installed: a GPU's machine may lack a reader of videos.

    A plugin, because pytest asks no conftest.py about a folder whose own conftest.py cannot be imported.
    """

    @pytest.hookimpl(hookwrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        from videomae_fast._optional import EXTRAS

        outcome: Any = yield
        report = outcome.get_result()
        missing = re.search(r"No module named '(\w+)|import of (\w+) halted", str(report.longrepr))
        name = missing and (missing[1] or missing[2])
        if report.failed and name in EXTRAS and not _is_installed(name):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {name} is not installed (extra '{EXTRAS[name]}')")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # None stands in for the package
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """After some CUDA errors every later call fails: then this process ends, and pytest-xdist starts another."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
