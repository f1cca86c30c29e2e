"""Options, clock and machine of the benchmark suites: `python -m pytest benchmarks/ops --size base`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness.measure import clock, copy_bandwidth, machine
from benchmarks.settings import Settings, add_options

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = pytest.StashKey[Settings]()
TIMED = pytest.StashKey[bool]()  # whether anything runs that is not predicted
PREDICTED_SUITES = ("memory", "roofline")


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser.getgroup("videomae_fast", "benchmarks of videomae_fast"))


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[TIMED] = item.config.stash.get(TIMED, False) or item.path.parent.name not in PREDICTED_SUITES
        item.add_marker(pytest.mark.benchmark(timer=clock, disable_gc=True))


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    return pytestconfig.stash[SETTINGS]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    settings = config.stash[SETTINGS]
    copy = copy_bandwidth(settings.device) if config.stash.get(TIMED, False) else None
    machine_info["videomae_fast"] = machine(ROOT, settings.device) | {"copy_gb_per_s": copy}
