"""Which ops miss their number: behind a rival, or on a GPU below 85 % of the copy bandwidth."""

from typing import Any

import pytest

from benchmarks.harness.tables import format_results
from benchmarks.harness.targets import COMPILED, COPY_SHARE, OURS, PUBLISHED, REWRITE, shortfalls
from tests.benchmarks.harness.test_tables import CPU, GPU, STEPS, op


def variants(ours: float, compiled: float, share: float, name: str = "gather") -> list[dict[str, Any]]:
    others = [op(PUBLISHED, 9.0, name=name), op(REWRITE, 5.0, name=name), op(COMPILED, compiled, name=name)]
    return [*others, op(OURS, ours, name=name, roofline=share)]


def test_an_op_that_torch_compile_beats_is_named() -> None:
    results = {**GPU, "records": [*variants(1.0, 0.8, share=0.9), *STEPS]}
    (found,) = shortfalls(results)
    assert (found.name, found.reached) == ("gather", pytest.approx(0.8))
    assert f"* gather, ViT-base, forward: 0.80x the speed of {COMPILED}" in format_results(results)


def test_an_op_below_its_share_of_the_bandwidth_is_named_on_a_gpu() -> None:
    slow = variants(1.0, 2.0, share=0.8)
    (found,) = shortfalls({**GPU, "records": slow})
    assert found.reached == pytest.approx(0.8 / COPY_SHARE) and "80% of the copy bandwidth, of 85%" in str(found)
    assert shortfalls({**CPU, "records": slow}) == []
    assert shortfalls({**GPU, "records": variants(1.0, 2.0, share=COPY_SHARE)}) == []
    assert "miss" not in format_results({**GPU, "records": variants(1.0, 2.0, share=COPY_SHARE)})


def test_the_furthest_is_first_and_each_is_named_once() -> None:
    records = [*variants(1.0, 0.9, share=0.1, name="a"), *variants(1.0, 0.05, share=0.2, name="b")]
    assert [(found.name, found.reason[:4]) for found in shortfalls({**GPU, "records": records})] == [
        ("b", "0.05"),
        ("a", "10% "),
    ]


def test_what_was_not_run_misses_nothing() -> None:
    rival = {k: v for k, v in op(COMPILED, 1.0).items() if k != "p50_ms"} | {"not_run": "no compiler"}
    assert shortfalls({**GPU, "records": [rival, op(OURS, 1.0, roofline=0.9)]}) == []
    assert shortfalls({**GPU, "records": [rival]}) == []
