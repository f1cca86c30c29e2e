"""Options, clock and machine of the benchmark suites: `python -m pytest benchmarks/ops --size base`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness.journal import Journal
from benchmarks.harness.measure import clock, copy_bandwidth, machine
from benchmarks.settings import Settings, add_options

ROOT = Path(__file__).resolve().parents[1]
SETTINGS, JOURNAL = pytest.StashKey[Settings](), pytest.StashKey[Journal]()
PREDICTED_SUITES = ("memory", "roofline")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("videomae_fast", "benchmarks of videomae_fast")
    add_options(group)
    group.addoption(
        "--journal", type=Path, help="a line for every finished test; tests that it lists are not run again"
    )


def pytest_configure(config: pytest.Config) -> None:
    options = config.option
    if options.memory_budget is not None and not torch.cuda.is_available():
        raise pytest.UsageError("--memory-budget finds the largest batch on a GPU, and torch sees none")
    for name in ("batch_size", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise pytest.UsageError(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name)}")
    config.stash[SETTINGS] = Settings(options)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test module's `parametrize(settings)` gives the (name, arguments) of what its tests run."""
    make = getattr(metafunc.module, "parametrize", None)
    if make is not None:
        names, rows, ids = make(metafunc.config.stash[SETTINGS])
        metafunc.parametrize(names, rows, ids=ids)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    timed = any(item.path.parent.name not in PREDICTED_SUITES for item in items)
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock, disable_gc=True))
    if config.option.journal is not None:
        device = config.stash[SETTINGS].device
        about = machine(ROOT, device) | {"copy_gb_per_s": copy_bandwidth(device) if timed else None}
        try:
            config.stash[JOURNAL] = journal = Journal(config.option.journal, about)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        again = [item for item in items if item.nodeid in journal.finished]
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item.nodeid not in journal.finished]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write what a test measured as soon as it has passed: a run may be cut off."""
    outcome: Any = yield
    if JOURNAL in item.config.stash and call.when == "call" and outcome.get_result().passed:
        item.config.stash[JOURNAL].add(item.nodeid, item.funcargs["benchmark"])  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    return pytestconfig.stash[SETTINGS]
