"""How many random inputs the fuzz tests try: a few hundred each, thousands with `-m slow`."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings


def examples(default: int, slow: int) -> Callable[[Any], Any]:
    """Decorate a hypothesis test; the decorator stands above `@given`.

    The inputs are the same in every run, and nothing is kept between runs. A test may use fixtures of a whole
    function, such as `tmp_path`: its inputs then share them.

    Args:
        default: inputs to try.
        slow: inputs to try with `-m slow`, which such a test then belongs to.

    Returns:
        The decorator.
    """
    thorough = os.environ.get("VIDEOMAE_FUZZ") == "slow"  # set by conftest.py
    decorate = settings(
        max_examples=slow if thorough else default,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return (lambda test: pytest.mark.slow(decorate(test))) if thorough else decorate
